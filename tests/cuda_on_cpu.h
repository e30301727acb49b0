// Runs a CUDA kernel on the CPU, one block or cluster of blocks at a time: every thread is a fiber, which gives way to
// the others wherever threads of a block or of a warp meet. Stands in for instructions.cuh.
//
// Asynchronous copies and products happen when they are waited for, not before: a missing wait shows.
// References for fragments: PTX ISA 9.0, sections on mma.m16n8k16, mma.m16n8k8, ldmatrix and wgmma.

#include <sched.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __cluster_dims__
#define __cluster_dims__(x, y, z)
#undef __grid_constant__
#define __grid_constant__
#ifndef SPLIT
#define SPLIT 1
#endif

#if MODE == 4
typedef int Sum;
#else
typedef float Sum;
#endif
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, gridDim;
alignas(1024) unsigned char memories[SPLIT][232448];  // one per block of the cluster
static unsigned shared_limit;

struct Product { Sum* c; unsigned a, b; bool adds; const unsigned* const* left; int step = -1; unsigned places = 0; };  // registers of four threads
struct Copy { unsigned to; const void* from; bool valid; unsigned size = 16; };
struct Fiber {
  ucontext_t context;
  bool done = false;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  std::vector<Product> open_products;
  std::deque<std::vector<Product>> product_groups;
};
struct Meeting { int arrived = 0, generation = 0; };
static std::vector<Fiber> fibers;
static std::vector<Meeting> meetings;  // one per warp, then one per block, then the cluster's
static std::vector<uint32_t> slots;    // eight per thread
static ucontext_t scheduler;
static int running, block_threads;
static long events;  // what lets other threads go on; none for long: all wait for each other

static void fail(const char* what) { std::fprintf(stderr, "emulation: %s\n", what); std::abort(); }
static void meet(Meeting& meeting, int members) {
  int generation = meeting.generation;
  ++events;
  if (++meeting.arrived == members) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  int self = running;
  while (meeting.generation == generation) swapcontext(&fibers[self].context, &scheduler);
}
static int lane() { return running % 32; }
static void meet_warp() { meet(meetings[running / 32], 32); }
static int rank() { return running / block_threads; }
static void __syncwarp() { meet_warp(); }
static void __syncthreads() { meet(meetings[meetings.size() - 1 - SPLIT + rank()], block_threads); }
static void meet_cluster() { meet(meetings.back(), (int)fibers.size()); }
static void pass_cluster() { meet_cluster(); }
static uint32_t* slot(int lane) { return &slots[(running / 32 * 32 + lane) * 8]; }
static unsigned char* at(unsigned address, unsigned size) {
  if (address % size || address + size > shared_limit) fail("shared memory out of bounds or misaligned");
  return memories[rank()] + address;
}
static unsigned char* shared_memory() { return memories[rank()]; }
static float4 load_cluster(unsigned from, unsigned rank) {
  at(from, 16);
  float4 v;
  std::memcpy(&v, memories[rank] + from, 16);
  return v;
}

static unsigned __cvta_generic_to_shared(const void* p) { return (unsigned)((const unsigned char*)p - memories[rank()]); }
static uint32_t __float_as_uint(float x) { uint32_t v; std::memcpy(&v, &x, 4); return v; }
static float __uint_as_float(uint32_t x) { float v; std::memcpy(&v, &x, 4); return v; }
static float __int_as_float(int x) { return __uint_as_float((uint32_t)x); }
static float nearly_exp(float x) { return std::exp(x); }
static float nearly_exp2(float x) { return std::exp2(x); }
static float nearly_divide(float x, float y) { return x / y; }
static uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  uint64_t bytes = (uint64_t)high << 32 | low;
  uint32_t v = 0;
  for (int i = 0; i < 4; ++i) v |= (uint32_t)(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
  return v;
}
static unsigned pack_bytes(int a, int b, int c, int d) {
  auto byte = [](int x) { return (unsigned)(x < 0 ? 0 : x > 255 ? 255 : x); };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}
static float of_e4m3(uint8_t bits) {
  int exponent = bits >> 3 & 15, rest = bits & 7;
  if ((bits & 127) == 127) return NAN;
  float size = exponent ? std::ldexp(8.0f + rest, exponent - 10) : std::ldexp((float)rest, -9);
  return bits & 128 ? -size : size;
}
static unsigned byte_e4m3(float x) {
  unsigned sign = std::signbit(x) ? 128 : 0;
  x = std::fabs(x);
  if (std::isnan(x)) return sign | 127;
  if (x >= 448.0f) return sign | 126;
  int exponent = std::max(x > 0 ? std::ilogb(x) : -6, -6);
  int steps = (int)std::nearbyint(std::ldexp(x, 3 - exponent));  // eight and more: normal; 16: the next power
  return sign | (unsigned)((exponent + 6) * 8 + steps);
}
static unsigned pack_e4m3(float a, float b, float c, float d) {
  return byte_e4m3(a) | byte_e4m3(b) << 8 | byte_e4m3(c) << 16 | byte_e4m3(d) << 24;
}
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a < b ? b : a; }
static float __shfl_xor_sync(unsigned, float x, int mask) {
  slot(lane())[0] = __float_as_uint(x);
  meet_warp();
  float other = __uint_as_float(slot(lane() ^ mask)[0]);
  meet_warp();
  return other;
}

static unsigned __shfl_xor_sync(unsigned, unsigned x, int mask) {
  return __float_as_uint(__shfl_xor_sync(0u, __uint_as_float(x), mask));
}

static void wait_for_predecessor() {}
template <typename Bits> static Bits load_bits(const void* from) { Bits v; std::memcpy(&v, from, sizeof v); return v; }
static unsigned load_fresh_8(const void* from) { return load_bits<uint8_t>(from); }
static unsigned load_fresh_16(const void* from) { return load_bits<uint16_t>(from); }
static unsigned load_fresh_32(const void* from) { return load_bits<uint32_t>(from); }
static uint2 load_fresh_64(const void* from) { return load_bits<uint2>(from); }
static uint4 load_fresh_128(const void* from) { return load_bits<uint4>(from); }
static void prefetch(const void*) {}

// Memory that several GPUs share, each emulated by a thread of its own: halves of lines arrive one by
// one, the second one first.
static void store_line(void* to, unsigned x, unsigned y, unsigned round) {
  uint64_t* halves = (uint64_t*)to;
  if ((uintptr_t)to % 16) fail("a line is misaligned");
  __atomic_store_n(halves + 1, (uint64_t)round << 32 | y, __ATOMIC_RELEASE);
  __atomic_store_n(halves, (uint64_t)round << 32 | x, __ATOMIC_RELEASE);
}
static uint2 await_line(const void* from, unsigned round) {
  const uint64_t* halves = (const uint64_t*)from;
  uint64_t x, y;
  do {
    sched_yield();
    x = __atomic_load_n(halves, __ATOMIC_ACQUIRE), y = __atomic_load_n(halves + 1, __ATOMIC_ACQUIRE);
  } while (x >> 32 != round || y >> 32 != round);
  return make_uint2((unsigned)x, (unsigned)y);
}
static void send_signal(void* to, unsigned round) { __atomic_store_n((uint32_t*)to, round, __ATOMIC_RELEASE); }
static void await_signal(const void* from, unsigned round) {
  while ((int)(__atomic_load_n((const uint32_t*)from, __ATOMIC_ACQUIRE) - round) < 0) sched_yield();
}
static void copy_async(unsigned to, const void* from, bool valid) {
  if ((uintptr_t)from % 16) fail("global memory misaligned");
  fibers[running].open.push_back({to, from, valid});
}
static void copy_half_async(unsigned to, const void* from, bool valid) {
  if ((uintptr_t)from % 8) fail("global memory misaligned");
  fibers[running].open.push_back({to, from, valid, 8});
}
static void commit() {
  fibers[running].groups.push_back(std::move(fibers[running].open));
  fibers[running].open.clear();
}
template <int PENDING> static void wait() {
  auto& groups = fibers[running].groups;
  for (; groups.size() > PENDING; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (copy.valid) std::memcpy(at(copy.to, copy.size), copy.from, copy.size);
      else std::memset(at(copy.to, copy.size), 0, copy.size);
    }
}
static void store_shared(unsigned to, uint4 v) { std::memcpy(at(to, 16), &v, 16); }
static uint4 load_shared_128(unsigned from) { uint4 v; std::memcpy(&v, at(from, 16), 16); return v; }
static unsigned load_shared(unsigned from) { unsigned v; std::memcpy(&v, at(from, 4), 4); return v; }
template <typename Read> static void load_matrices(unsigned* to, unsigned from, Read read) {
  slot(lane())[0] = from;
  meet_warp();
  for (int i = 0; i < 4; ++i) to[i] = read(i);
  meet_warp();
}
static void load_matrix(unsigned* to, unsigned from) {
  load_matrices(to, from, [](int i) {
    uint32_t v;
    std::memcpy(&v, at(slot(i * 8 + lane() / 4)[0], 16) + lane() % 4 * 4, 4);
    return v;
  });
}
static void load_matrix_transposed(unsigned* to, unsigned from) {
  load_matrices(to, from, [](int i) {
    uint16_t v[2];
    for (int k = 0; k < 2; ++k)
      std::memcpy(&v[k], at(slot(i * 8 + lane() % 4 * 2 + k)[0], 16) + lane() / 4 * 2, 2);
    return (uint32_t)v[0] | (uint32_t)v[1] << 16;
  });
}
static unsigned round_tf32(float x) {  // to nearest, ties away from zero
  uint32_t bits = __float_as_uint(x);
  return std::isfinite(x) ? (bits + 0x1000) & 0xffffe000u : bits;
}
static float half_of(uint32_t word, int which) {
  uint16_t bits = (uint16_t)(word >> (16 * which));
#if MODE == 0
  __half v;
#else
  __nv_bfloat16 v;
#endif
  std::memcpy(&v, &bits, 2);
#if MODE == 0
  return __half2float(v);
#else
  return __bfloat162float(v);
#endif
}
static void mma(Sum* c, const unsigned* a, const unsigned* b) {
  for (int i = 0; i < 4; ++i) slot(lane())[i] = a[i];
  for (int i = 0; i < 2; ++i) slot(lane())[4 + i] = b[i];
  meet_warp();
  constexpr int PER_WORD = MODE >= 4 ? 4 : MODE < 2 ? 2 : 1, DEPTH = 8 * PER_WORD;
  for (int i = 0; i < 4; ++i) {
    int row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < DEPTH; ++k) {
      int word = k / PER_WORD, half = k % PER_WORD;
      uint32_t x = slot(row % 8 * 4 + word % 4)[row / 8 + word / 4 * 2];
      uint32_t y = slot(column * 4 + word % 4)[4 + word / 4];
      if (MODE == 4) c[i] += (int)(uint8_t)(x >> 8 * half) * (int8_t)(y >> 8 * half);
      else if (MODE == 5) c[i] += of_e4m3(x >> 8 * half) * of_e4m3(y >> 8 * half);
      else if (PER_WORD == 1) c[i] += __uint_as_float(x & 0xffffe000u) * __uint_as_float(y & 0xffffe000u);
      else c[i] += half_of(x, half) * half_of(y, half);
    }
  }
  meet_warp();
}

#ifndef ROW_BYTES
#define ROW_BYTES 128
#endif
static unsigned permuted(unsigned place) { return place ^ (place >> 7 & (ROW_BYTES / 16 - 1)) << 4; }
#ifdef WGMMA
static void show_to_wgmma() {}
static void begin_wgmma() {}
static void finished(Sum&) {}
static void finished(unsigned&) {}
static void wgmma(Sum* c, unsigned a, unsigned b, bool adds = true) { fibers[running].open_products.push_back({c, a, b, adds, nullptr}); }
static void commit_wgmma() {
  fibers[running].product_groups.push_back(std::move(fibers[running].open_products));
  fibers[running].open_products.clear();
}
static Sum element_of_tile(unsigned tile, int row, int k, bool is_signed) {
  constexpr int PER_WORD = MODE >= 4 ? 4 : MODE >= 2 ? 1 : 2;
  unsigned place = permuted(tile + row * ROW_BYTES + k * (4 / PER_WORD)), word;
  std::memcpy(&word, at(place & ~3u, 4), 4);
  if (PER_WORD == 1) return __uint_as_float(word & 0xffffe000u);
  uint8_t byte = word >> 8 * (k & 3);
  if (MODE == 4) return is_signed ? (int8_t)byte : byte;
  if (MODE == 5) return of_e4m3(byte);
  return half_of(word, k & 1);
}
static std::vector<const unsigned*> lefts(1024);
static void multiply_from_registers(Sum* c, const unsigned* a, unsigned b) {
  lefts[running] = a;
  meet_warp();
  const unsigned** left = new const unsigned*[4];
  for (int i = 0; i < 4; ++i) left[i] = lefts[running / 4 * 4 + i];
  meet_warp();
  fibers[running].open_products.push_back({c, 0, b, true, left});
}
#ifdef V_COLUMNS
static void wgmma_values(Sum* c, const unsigned* a, unsigned b) { multiply_from_registers(c, a, b); }
static void multiply_values(const Product& p) {
  for (int i = 0; i < V_COLUMNS / 2; ++i) {
    int n = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k)
      p.c[i] += half_of(p.left[k % 8 / 2][k / 8 * 2 + i % 4 / 2], k % 2) * element_of_tile(p.b + n / 64 * V_BLOCK, k, n % 64, true);
  }
}
#else
static void wgmma_rows(Sum* c, const unsigned* a, unsigned b) { multiply_from_registers(c, a, b); }
static void multiply_values(const Product& p) {
  for (int i = 0; i < WGMMA_COLUMNS / 2; ++i) {
    int n = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 8; ++k)
      p.c[i] += __uint_as_float(p.left[k % 4][k / 4 * 2 + i % 4 / 2] & 0xffffe000u) * element_of_tile(p.b, n, k, true);
  }
}
#endif
// Of the left factor, two of every four numbers are there; two threads of four know where they belong.
static std::vector<unsigned> known_places(1024);
template <int STEP> static void wgmma_sparse(Sum* c, unsigned a, unsigned b, unsigned places) {
  fibers[running].open_products.push_back({c, a, b, true, nullptr, STEP, places});
}
static void multiply_sparse(const Product& p) {
  known_places[running] = p.places;
  meet_warp();
  for (int i = 0; i < WGMMA_COLUMNS / 2; ++i) {
    int inside = lane() / 4 + i % 4 / 2 * 8, row = running % 128 / 32 * 16 + inside;
    int column = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 32; k += 4) {
      unsigned word = known_places[running / 32 * 32 + inside % 8 * 4 + p.step * 2 + k / 16];
      unsigned two = word >> (inside / 8 * 16 + k % 16) & 15;
      if ((two & 3) >= two >> 2) fail("numbers are not in order");
      for (int which = 0; which < 2; ++which)
        p.c[i] += element_of_tile(p.a, row, k / 2 + which, false) * element_of_tile(p.b, column, k + (two >> 2 * which & 3), true);
    }
  }
  meet_warp();
}
static void multiply_tiles(const Product& p) {
  for (int i = 0; i < WGMMA_COLUMNS / 2; ++i) {
    int row = running % 128 / 32 * 16 + lane() / 4 + i % 4 / 2 * 8;
    int column = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    if (!p.adds) p.c[i] = 0;
    for (int k = 0; k < (MODE >= 4 ? 32 : MODE >= 2 ? 8 : 16); ++k)
      p.c[i] += element_of_tile(p.a, row, k, false) * element_of_tile(p.b, column, k, true);
  }
}
template <int PENDING> static void wait_wgmma() {
  auto& groups = fibers[running].product_groups;
  for (; groups.size() > PENDING; groups.pop_front())
    for (const Product& p : groups.front()) p.left ? multiply_values(p) : p.step >= 0 ? multiply_sparse(p) : multiply_tiles(p);
  meet_warp();  // the instruction is a warp's: no lane goes on before the others' sums are there
}
#endif

// Barriers open when all have arrived and all bytes have come. What the copy engine was asked for comes late, while others wait.
struct Barrier { int count, missing; long bytes; unsigned turn; };
static std::map<std::pair<int, unsigned>, Barrier> barriers;
static void tell(int rank, unsigned bar, int arrived, long bytes) {
  Barrier& b = barriers.at({rank, bar});
  b.missing -= arrived, b.bytes += bytes, ++events;
  if (b.missing < 0) fail("too many arrived at a barrier");
  if (!b.missing && !b.bytes) b.missing = b.count, b.turn ^= 1;
}
#ifdef STREAMED
struct TensorMap {
  const unsigned char* base;
  union {
    struct { int64_t columns, rows, stride, box_columns, box_rows; };
    struct { int64_t channels, width, height, images, step_w, step_h, first_w, first_h, last_w, last_h, pixels, row_bytes; };
  };
};
struct TileRow { unsigned to; const unsigned char* from; };  // null: zeros
struct Fetch { unsigned bar, mask; std::vector<TileRow> rows; unsigned to; const void* from; int bytes; };
static std::deque<Fetch> fetches;
static void init_barrier(unsigned bar, int count) { at(bar, 8); barriers[{rank(), bar}] = {count, count, 0, 0}; }
static void show_barriers() {}
static void run_fetch() {
  Fetch f = fetches.front();
  fetches.pop_front();
  for (int r = 0; r < SPLIT; ++r) {
    if (!(f.mask >> r & 1)) continue;
    long bytes = f.bytes;
    if (f.bytes) std::memcpy(memories[r] + f.to, f.from, f.bytes);
    for (const TileRow& row : f.rows) {
      bytes += ROW_BYTES;
      for (int chunk = 0; chunk < ROW_BYTES / 16; ++chunk) {
        unsigned char* to = memories[r] + permuted(row.to + chunk * 16);
        if (row.from) std::memcpy(to, row.from + chunk * 16, 16);
        else std::memset(to, 0, 16);
      }
    }
    tell(r, f.bar, 0, -bytes);
  }
}
static void wait_barrier(unsigned bar, unsigned turn) {
  int self = running;
  for (long tries = 1; barriers.at({rank(), bar}).turn == turn; ++tries) {
    if (tries % 3 == 0 && !fetches.empty()) run_fetch();
    swapcontext(&fibers[self].context, &scheduler);
  }
}
static void arrive(unsigned bar) { tell(rank(), bar, 1, 0); }
static void expect(unsigned bar, int bytes) { tell(rank(), bar, 0, bytes); }
static void arrive_and_expect(unsigned bar, int bytes) { expect(bar, bytes); arrive(bar); }
static void arrive_there(unsigned bar, unsigned rank) { tell(rank, bar, 1, 0); }
template <bool ALONE> static void fetch(unsigned to, const void* from, int bytes, unsigned bar, unsigned mask) {
  at(to, 16), at(to + bytes - 16, 16);
  if ((uintptr_t)from % 16 || bytes % 16) fail("global memory misaligned");
  fetches.push_back({bar, ALONE ? 1u << rank() : mask, {}, to, from, bytes});
}
template <bool ALONE>
static void fetch_matrix(unsigned to, const TensorMap& map, int column, int row, unsigned bar, unsigned mask) {
  if (to % 1024) fail("tiles of the copy engine begin at multiples of 1024");
  constexpr int SIZE = MODE >= 4 ? 1 : MODE >= 2 ? 4 : 2;
  if (map.box_columns != ROW_BYTES / SIZE) fail("boxes are as wide as tiles");
  Fetch f{bar, ALONE ? 1u << rank() : mask, {}, 0, nullptr, 0};
  static std::deque<std::vector<unsigned char>> edges;
  for (int r = 0; r < map.box_rows; ++r) {
    const unsigned char* from = nullptr;
    if (row + r < map.rows && column < map.columns) {
      from = map.base + (row + r) * map.stride + column * SIZE;
      if (column + ROW_BYTES / SIZE > map.columns) {
        edges.emplace_back(ROW_BYTES, 0);
        std::memcpy(edges.back().data(), from, (map.columns - column) * SIZE);
        from = edges.back().data();
      }
    }
    f.rows.push_back({at(to + r * ROW_BYTES, 16) - memories[rank()] + 0u, from});
  }
  fetches.push_back(std::move(f));
}
struct Pixel { int w, h, image; };
template <bool ALONE>
static void fetch_patches(unsigned to, const TensorMap& map, int channel, Pixel p, int across, int down, unsigned bar, unsigned mask) {
  if (to % 1024) fail("tiles of the copy engine begin at multiples of 1024");
  constexpr int SIZE = MODE >= 4 ? 1 : MODE >= 2 ? 4 : 2;
  if (map.row_bytes != ROW_BYTES || channel + ROW_BYTES / SIZE > map.channels) fail("tiles are of one pixel");
  Fetch f{bar, ALONE ? 1u << rank() : mask, {}, 0, nullptr, 0};
  for (int r = 0; r < map.pixels; ++r) {
    int w = p.w + across, h = p.h + down;
    bool exists = w >= 0 && w < map.width && h >= 0 && h < map.height && p.image < map.images;
    const unsigned char* from = map.base + ((((int64_t)p.image * map.height + h) * map.width + w) * map.channels + channel) * SIZE;
    f.rows.push_back({at(to + r * ROW_BYTES, 16) - memories[rank()] + 0u, exists ? from : nullptr});
    if ((p.w += map.step_w) < map.width + map.last_w) continue;
    p.w = map.first_w;
    if ((p.h += map.step_h) < map.height + map.last_h) continue;
    p.h = map.first_h, ++p.image;
  }
  fetches.push_back(std::move(f));
}
template <int COUNT> static void give_registers() {}
template <int COUNT> static void take_registers() {}
#endif

template <typename Kernel> struct Launcher;
template <typename... Arguments> struct Launcher<void (*)(Arguments...)> {
  template <typename To> static To take(int64_t value) {
    if constexpr (std::is_pointer_v<To>) return reinterpret_cast<To>(value);
    else if constexpr (!std::is_arithmetic_v<To>) return *reinterpret_cast<const To*>(value);
    else return (To)value;
  }
  template <size_t... I>
  static void call(void (*kernel)(Arguments...), const int64_t* values, std::index_sequence<I...>) {
    kernel(take<Arguments>(values[I])...);
  }
  static void call(void (*kernel)(Arguments...), const int64_t* values) {
    call(kernel, values, std::index_sequence_for<Arguments...>());
  }
};

template <typename Kernel> static Kernel the_kernel;
static const int64_t* the_arguments;
template <typename Kernel> static void body() {
  Launcher<Kernel>::call(the_kernel<Kernel>, the_arguments);
  fibers[running].done = true, ++events;
  swapcontext(&fibers[running].context, &scheduler);
}

template <typename Kernel>
static void launch(Kernel kernel, const int64_t* arguments, Index grid, int threads, int shared_bytes) {
  the_kernel<Kernel> = kernel;
  the_arguments = arguments;
  shared_limit = shared_bytes;
  block_threads = threads;
  gridDim = grid;
  // One per thread of a block, for all blocks in turn.
  constexpr size_t stack_bytes = 1 << 17;
  std::unique_ptr<char[]> stacks(new char[threads * SPLIT * stack_bytes]);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (int first = 0; first < grid.x; first += SPLIT) {
        std::memset(memories, 0xff, sizeof memories);  // NaN
        fibers = std::vector<Fiber>(threads * SPLIT);
        meetings.assign(threads * SPLIT / 32 + SPLIT + 1, {});
        slots.assign(threads * SPLIT * 8, 0);
        barriers.clear();
        for (size_t i = 0; i < fibers.size(); ++i) {
          ucontext_t& context = fibers[i].context;
          getcontext(&context);
          context.uc_stack.ss_sp = &stacks[i * stack_bytes];
          context.uc_stack.ss_size = stack_bytes;
          makecontext(&context, body<Kernel>, 0);
        }
        long seen = -1;
        for (int left = 1, idle = 0; left;) {
          idle = events == seen ? idle + 1 : 0;
          if (idle > 4) fail("every thread waits for another");
          left = 0, seen = events;
          for (running = 0; running < threads * SPLIT; ++running) {
            if (fibers[running].done) continue;
            threadIdx.x = running % threads;
            blockIdx.x = first + rank();
            swapcontext(&scheduler, &fibers[running].context);
            left += !fibers[running].done;
          }
        }
      }
}
