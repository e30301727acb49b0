/* Notes when the virtual machine begins and ends each call, for `relaxc bench --profile`.
 *
 * The machine calls its instrument before and after every instruction that calls something:
 * instrument(function, name, is_before, result, arguments...). Doing it in C costs some tens of
 * nanoseconds per call, where a Python callback would take longer than small kernels do.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define NAME_BYTES 112
/* The ABI's index of a value that is a C string. */
#define RAW_STRING 8

/* TVM's ABI for a value of any type. */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t number;
    const char *text;
  };
} any_t;

typedef struct {
  int64_t ns;
  int64_t is_end;
  char name[NAME_BYTES];
} event_t;

/* Allocated by the caller. Events beyond the capacity are counted, not kept. */
typedef struct {
  int64_t capacity;
  int64_t count;
  event_t events[];
} log_t;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

EXPORT int relaxc_profiler_note(void *self, const any_t *args, int32_t count, any_t *result) {
  int64_t begun = now_ns();
  log_t *log = self;
  memset(result, 0, sizeof *result); /* none: go on */
  if (count < 3) return 0;
  int64_t at = log->count++;
  if (at >= log->capacity) return 0;
  event_t *event = &log->events[at];
  event->is_end = !args[2].number;
  event->name[0] = 0;
  if (args[1].type_index == RAW_STRING) {
    strncpy(event->name, args[1].text, NAME_BYTES - 1);
    event->name[NAME_BYTES - 1] = 0;
  }
  /* What the notes take is nobody's time. */
  event->ns = event->is_end ? begun : now_ns();
  return 0;
}
