# find_package(relaxc) gives the target relaxc::relaxc: headers, TVM's FFI library, threads.
include(CMakeFindDependencyMacro)
find_dependency(Threads)

add_library(relaxc::relaxc INTERFACE IMPORTED)
target_compile_features(relaxc::relaxc INTERFACE cxx_std_17)
target_include_directories(relaxc::relaxc INTERFACE "${CMAKE_CURRENT_LIST_DIR}/include")
target_link_libraries(relaxc::relaxc INTERFACE
    "${CMAKE_CURRENT_LIST_DIR}/lib/libtvm_ffi.so" Threads::Threads ${CMAKE_DL_LIBS})
