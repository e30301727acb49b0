/* What this machine can do at most: operations per second by data type, and bytes per second.
 *
 * Every thread repeats a kernel; a round ends when all threads have finished it, and the fastest
 * of many short rounds counts, so that what neighbours on the machine do meanwhile does not.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define MAX_THREADS 1024

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
typedef float vec_t __attribute__((vector_size(WIDTH)));

/* Twelve independent chains hide the latency of a multiply-add on every core in use today, and fit
 * into sixteen registers with its operands. Variables, not an array: that would be spilled. They
 * start at different values, or the compiler would see that they are equal. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define CHAINS 12

/* Not constants, or the compiler would compute the results itself. */
static volatile float half = 0.5f;
static volatile int three = 3;
static volatile float sink;

static void run_float32(long count) {
  vec_t x = half - (vec_t){0}, y = x;
#define CHAIN(i) vec_t s##i = x + (float)i;
  EACH(CHAIN)
#undef CHAIN
  while (count-- > 0) {
#define CHAIN(i) s##i = s##i * x + y;
    EACH(CHAIN)
#undef CHAIN
  }
#define CHAIN(i) sink = s##i[0];
  EACH(CHAIN)
#undef CHAIN
}

#if defined(__AVX512BF16__)
static void run_bfloat16(long count) {
  __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(half), _mm512_set1_ps(half));
#define CHAIN(i) __m512 s##i = _mm512_set1_ps(half + (float)i);
  EACH(CHAIN)
#undef CHAIN
  while (count-- > 0) {
#define CHAIN(i) s##i = _mm512_dpbf16_ps(s##i, x, x);
    EACH(CHAIN)
#undef CHAIN
  }
#define CHAIN(i) sink = _mm512_cvtss_f32(s##i);
  EACH(CHAIN)
#undef CHAIN
}
#endif

#if defined(__AVX512VNNI__)
static void run_int8(long count) {
  __m512i x = _mm512_set1_epi32(three);
#define CHAIN(i) __m512i s##i = _mm512_set1_epi32(three + i);
  EACH(CHAIN)
#undef CHAIN
  while (count-- > 0) {
#define CHAIN(i) s##i = _mm512_dpbusd_epi32(s##i, x, x);
    EACH(CHAIN)
#undef CHAIN
  }
#define CHAIN(i) sink = (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(s##i));
  EACH(CHAIN)
#undef CHAIN
}
#endif

static void run_read(const vec_t *from, long vectors) {
  vec_t s0 = {0}, s1 = s0, s2 = s0, s3 = s0;
  for (long i = 0; i + 4 <= vectors; i += 4) {
    s0 += from[i];
    s1 += from[i + 1];
    s2 += from[i + 2];
    s3 += from[i + 3];
  }
  sink = s0[0] + s1[0] + s2[0] + s3[0];
}

static void run_copy(const vec_t *from, vec_t *to, long vectors) {
  vec_t x = half - (vec_t){0};  /* an addition, or the compiler would call memcpy */
  for (long i = 0; i < vectors; ++i) to[i] = from[i] + x;
  sink = to[vectors - 1][0];
}

/* Past the caches: the lines written need not be read first. */
static void run_stream(const vec_t *from, vec_t *to, long vectors) {
#if defined(__AVX512F__)
  for (long i = 0; i < vectors; ++i) _mm512_stream_ps((float *)(to + i), (__m512)from[i]);
#elif defined(__AVX__)
  for (long i = 0; i < vectors; ++i) _mm256_stream_ps((float *)(to + i), (__m256)from[i]);
#else
  run_copy(from, to, vectors);
#endif
}

enum { FLOAT32, BFLOAT16, INT8, READ, COPY, STREAM };

typedef struct {
  pthread_barrier_t gate;
  int kind;
  long size; /* iterations, or bytes of each of the two arrays */
  double seconds; /* to spend */
  double best; /* of a round */
  int done;
} task_t;

typedef struct {
  task_t *task;
  int index;
} worker_t;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run(int kind, long size, vec_t *from, vec_t *to) {
  long vectors = size / WIDTH;
  switch (kind) {
    case FLOAT32: run_float32(size); break;
#if defined(__AVX512BF16__)
    case BFLOAT16: run_bfloat16(size); break;
#endif
#if defined(__AVX512VNNI__)
    case INT8: run_int8(size); break;
#endif
    case READ: run_read(from, vectors); break;
    case COPY: run_copy(from, to, vectors); break;
    default: run_stream(from, to, vectors);
  }
}

static void *worker(void *argument) {
  worker_t *self = argument;
  task_t *task = self->task;
  vec_t *from = NULL, *to = NULL;
  if (task->kind >= READ) {
    from = aligned_alloc(4096, (size_t)task->size);
    to = aligned_alloc(4096, (size_t)task->size);
    memset(from, 0, (size_t)task->size);
    memset(to, 0, (size_t)task->size);
  }
  double end = now() + task->seconds;
  for (;;) {
    pthread_barrier_wait(&task->gate);
    if (task->done) break;
    double start = now();
    run(task->kind, task->size, from, to);
    pthread_barrier_wait(&task->gate);
    double took = now() - start;
    if (self->index == 0) {
      if (took < task->best) task->best = took;
      task->done = now() > end;
    }
  }
  free(from);
  free(to);
  return NULL;
}

/* Seconds of the fastest round; negative if there is no memory or no thread left. */
static double fastest(int kind, long size, int threads, double seconds) {
  task_t task = {.kind = kind, .size = size, .seconds = seconds, .best = 1e9};
  worker_t workers[MAX_THREADS];
  pthread_t handles[MAX_THREADS];
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  pthread_barrier_init(&task.gate, NULL, (unsigned)threads);
  for (int i = 0; i < threads; ++i) {
    workers[i] = (worker_t){&task, i};
    if (i > 0 && pthread_create(&handles[i], NULL, worker, &workers[i])) abort();
  }
  worker(&workers[0]);
  for (int i = 1; i < threads; ++i) pthread_join(handles[i], NULL);
  pthread_barrier_destroy(&task.gate);
  return task.best;
}

/* Operations per second of all threads; a multiply-add is two. Zero where the CPU has no
 * instruction for the type. */
EXPORT double relaxc_peak_operations(int kind, int threads, double seconds) {
  static const int per_float[] = {2, 4, 8};
  const long count = 30000;
#if !defined(__AVX512BF16__)
  if (kind == BFLOAT16) return 0;
#endif
#if !defined(__AVX512VNNI__)
  if (kind == INT8) return 0;
#endif
  double operations = (double)per_float[kind] * (WIDTH / 4) * CHAINS * (double)count;
  return operations * threads / fastest(kind, count, threads, seconds);
}

/* Bytes per second, read and written, where every thread goes over two arrays of this size. */
EXPORT double relaxc_peak_bytes(long size, int threads, double seconds) {
  double best = 0;
  size = (size + 4095) / 4096 * 4096;
  for (int kind = READ; kind <= STREAM; ++kind) {
    double moved = (double)size * (kind == READ ? 1 : 2) * threads;
    double rate = moved / fastest(kind, size, threads, seconds / 3);
    if (rate > best) best = rate;
  }
  return best;
}
