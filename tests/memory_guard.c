/* Loaded before the C library: every aligned allocation, as TVM makes them for tensors, ends at a
 * page that nobody may touch. A kernel that reads or writes beyond a tensor ends the process there;
 * bytes of the last, half-used vector are compared when the tensor is freed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, SLOTS = 65536, NEAR = 64, CANARY = 0xA5 };

static struct {
  unsigned char *at, *base;
  size_t size, length;
} slots[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t slot_of(const void *at) { return ((uintptr_t)at / PAGE) % SLOTS; }

int posix_memalign(void **out, size_t align, size_t size) {
  if (align < 64) align = 64;
  size_t body = (size + align - 1) / align * align;
  size_t pages = (body + PAGE - 1) / PAGE * PAGE;
  if (align > PAGE || size > SIZE_MAX / 2) return EINVAL;
  if (!body) body = pages = PAGE;
  unsigned char *base = mmap(0, pages + 2 * PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return ENOMEM;
  mprotect(base, PAGE, PROT_NONE);
  mprotect(base + PAGE + pages, PAGE, PROT_NONE);
  memset(base + PAGE, CANARY, pages);
  unsigned char *at = base + PAGE + pages - body;
  pthread_mutex_lock(&lock);
  for (size_t k = 0, i = slot_of(at); k < NEAR; k++, i = (i + 1) % SLOTS) {
    if (slots[i].at) continue;
    slots[i].at = at, slots[i].base = base, slots[i].size = size;
    slots[i].length = pages + 2 * PAGE;
    break;
  }
  pthread_mutex_unlock(&lock);
  *out = at;
  return 0;
}

void *aligned_alloc(size_t align, size_t size) {
  void *at = 0;
  return posix_memalign(&at, align, size) ? 0 : at;
}

void *memalign(size_t align, size_t size) { return aligned_alloc(align, size); }

static void require_canaries(const unsigned char *from, const unsigned char *to) {
  static const char message[] = "guard: a kernel wrote beyond a tensor\n";
  for (; from < to; from++)
    if (*from != CANARY) {
      if (write(2, message, sizeof message - 1) < 0) _exit(2);
      abort();
    }
}

void free(void *given) {
  static void (*plain)(void *);
  if (!given) return;
  if (!plain) plain = dlsym(RTLD_NEXT, "free");
  pthread_mutex_lock(&lock);
  for (size_t k = 0, i = slot_of(given); k < NEAR; k++, i = (i + 1) % SLOTS) {
    if (slots[i].at != given) continue;
    unsigned char *base = slots[i].base, *at = slots[i].at;
    size_t size = slots[i].size, length = slots[i].length;
    slots[i].at = 0;
    pthread_mutex_unlock(&lock);
    require_canaries(base + PAGE, at);
    require_canaries(at + size, base + length - PAGE);
    munmap(base, length);
    return;
  }
  pthread_mutex_unlock(&lock);
  plain(given);
}
