/* Describes to the GPU's copy engine how patches of a channels-last map lie (im2col).
 *
 * TVM's runtime asks the driver for descriptions of matrices only. This is called by compiled code,
 * by TVM's ABI for functions, once before each launch of a kernel that fetches patches.
 * Reference: NVIDIA, CUDA driver API, cuTensorMapEncodeIm2col.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))

/* TVM's ABI for a value of any type. */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t number;
    void *pointer;
  };
} any_t;

extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

/* The driver's numbers: of no interleaving, chunks permuted within 64 or 128 bytes, 256 bytes to the
 * second-level cache at once, and zeros outside. */
enum { PLAIN = 0, SWIZZLE_64B = 2, SWIZZLE_128B = 3, PROMOTE_256B = 3, ZEROS = 0, RANK = 4 };
typedef int encode_t(void *map, int type, uint32_t rank, void *base, const uint64_t *sizes,
                     const uint64_t *strides, const int *lower, const int *upper,
                     uint32_t channels, uint32_t pixels, const uint32_t *steps, int interleave,
                     int swizzle, int promotion, int outside);

static int fails(const char *message) {
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", message);
  return -1;
}

/* (map, base, bytes of an element, channels, width, height, images, steps across and down, first
 * patch's column and row, last patch's from the last pixel, pixels at once, bytes of each) */
EXPORT int relaxc_describe_patches(void *self, const any_t *args, int32_t count, any_t *result) {
  static encode_t *encode;
  (void)self;
  result->type_index = 0;
  result->number = 0;
  if (count != 15) return fails("patches have 15 properties: a bug of relaxc");
  if (!encode) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    encode = driver ? (encode_t *)dlsym(driver, "cuTensorMapEncodeIm2col") : NULL;
    if (!encode) return fails("the NVIDIA driver lacks `cuTensorMapEncodeIm2col`; update it");
  }
  int64_t bytes = args[2].number, channels = args[3].number, row = args[14].number;
  int64_t width = args[4].number, height = args[5].number;
  uint64_t sizes[RANK] = {channels, width, height, args[6].number};
  uint64_t strides[RANK - 1] = {channels * bytes, width * channels * bytes,
                                height * width * channels * bytes};
  uint32_t steps[RANK] = {1, args[7].number, args[8].number, 1};
  int lower[2] = {args[9].number, args[10].number}, upper[2] = {args[11].number, args[12].number};
  /* Unsigned integers of so many bytes: 0, 1, 2 for one, two, four. */
  int status = encode(args[0].pointer, (int)bytes / 2, RANK, args[1].pointer, sizes, strides, lower,
                      upper, row / bytes, args[13].number, steps, PLAIN,
                      row == 64 ? SWIZZLE_64B : SWIZZLE_128B, PROMOTE_256B, ZEROS);
  if (!status) return 0;
  char message[96];
  snprintf(message, sizeof message, "CUDA: error %d in `cuTensorMapEncodeIm2col`", status);
  return fails(message);
}
