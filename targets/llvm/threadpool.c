/* A process-wide pool of worker threads for the parallel loops of compiled kernels.
 *
 * Generated code calls parallel_launch(body, data, n): run body for tasks 0..n-1. The calling
 * thread always takes part, so progress never depends on a worker being scheduled; idle workers
 * join. Tasks are split into one range per participant (locality: layer after layer, a core meets
 * the rows it wrote before); whoever finishes its range steals from the others (balance: a core
 * that a neighbour slows down does not hold up the rest).
 *
 * Cores may be far apart: a cache line that one has written takes up to 300 ns to the other. So what
 * changes hands has lines of its own, and a loop costs few such transfers: workers wait on one line,
 * find all about the loop on a second, and take their tasks from a third.
 *
 * Callers on different threads share the workers. Workers join only while fewer threads compute than
 * there are cores, and leave after the task at hand when another caller needs theirs. Workers spin
 * briefly between loops, then sleep.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define MAX_THREADS 256
#define MAX_CALLERS 64
/* Kernels split their loops into this many equal parts; more threads get more, smaller tasks. */
#define MIN_TASKS 16
#define TASKS_PER_THREAD 4
#define SPIN_NS 100000
/* Two cache lines: prefetchers fetch them in pairs. */
#define OWN_LINE _Alignas(128)
#define EXPORT __attribute__((visibility("default")))

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
/* Compilers make a prefetch for reading of it unless told that the CPU has this one; all have. */
#define FETCH_TO_WRITE(p) __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)(p)))
#else
#define RELAX() __asm__ __volatile__("yield")
#define FETCH_TO_WRITE(p) __builtin_prefetch(p, 1)
#endif

/* TVM's ABI for the body of a parallel loop. */
typedef struct {
  void *sync_handle;
  int32_t num_task;
} env_t;
typedef int (*body_t)(int task_id, env_t *env, void *data);
/* TVMFFIFunctionCall. */
typedef int (*call_t)(void *function, const void *args, int32_t count, void *result);

typedef struct {
  OWN_LINE atomic_int next;
  int end;
} range_t;

typedef struct {
  OWN_LINE atomic_int open;      /* tasks may be taken */
  atomic_int seats;              /* participants that may still join */
  atomic_int inside;             /* workers that hold a reference */
  atomic_int failed;
  atomic_int owned;              /* by a calling thread */
  int ranges;
  env_t env;
  body_t body;
  void *data;
  range_t range[MAX_THREADS];
} job_t;

static job_t jobs[MAX_CALLERS];
static OWN_LINE atomic_uint epoch;    /* grows with every published job */
static OWN_LINE atomic_int working;   /* workers inside of a loop */
static OWN_LINE atomic_int sleepers;  /* what follows changes rarely */
static atomic_int jobs_used;
static atomic_int workers;
static atomic_int callers;            /* inside of relaxc_pool_call */
static atomic_int cores = 1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

static __thread int my_threads = 1;
static __thread int inside_loop;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Stop being one of the threads that work if there are too many; exactly as many as that leave. */
static int leave_if_crowded(void) {
  int now = atomic_load_explicit(&working, memory_order_relaxed);
  while (now + atomic_load_explicit(&callers, memory_order_relaxed) >
         atomic_load_explicit(&cores, memory_order_relaxed))
    if (atomic_compare_exchange_weak(&working, &now, now - 1)) return 1;
  return 0;
}

/* Run tasks of the own range, then of the others'. The caller (seat 0) stays to the end; 0 tells
 * that a worker left earlier. */
static int work(job_t *job, int seat) {
  inside_loop = 1;
  for (int k = 0; k < job->ranges; ++k) {
    range_t *range = &job->range[(seat + k) % job->ranges];
    while (atomic_load_explicit(&range->next, memory_order_relaxed) < range->end) {
      if (seat != 0 && leave_if_crowded()) {
        inside_loop = 0;
        return 0;
      }
      int task = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
      if (task >= range->end) break;
      if (job->body(task, &job->env, job->data)) atomic_store(&job->failed, 1);
    }
  }
  inside_loop = 0;
  return 1;
}

static int join_any(void) {
  int used = atomic_load(&jobs_used);
  for (int i = 0; i < used; ++i) {
    job_t *job = &jobs[i];
    if (i == 0) { /* most often the only one */
      FETCH_TO_WRITE(job);
      FETCH_TO_WRITE(&job->range[1]);
    }
    if (!atomic_load_explicit(&job->open, memory_order_relaxed)) continue;
    if (atomic_fetch_add(&working, 1) + atomic_load(&callers) >= atomic_load(&cores)) {
      atomic_fetch_sub(&working, 1);
      return 0;
    }
    atomic_fetch_add(&job->inside, 1);
    int joined = 0, left = 0;
    if (atomic_load(&job->open)) {
      int seat = atomic_fetch_sub(&job->seats, 1);
      if (seat > 0) {
        joined = 1;
        left = !work(job, seat);
      }
    }
    atomic_fetch_sub(&job->inside, 1);
    if (!left) atomic_fetch_sub(&working, 1);
    if (joined) return 1;
  }
  return 0;
}

static void *worker_main(void *unused) {
  (void)unused;
  for (;;) {
    unsigned seen = atomic_load(&epoch);
    if (join_any()) continue;
    int64_t deadline = now_ns() + SPIN_NS;
    do {
      for (int i = 0; i < 64 && atomic_load_explicit(&epoch, memory_order_relaxed) == seen; ++i)
        RELAX();
    } while (atomic_load(&epoch) == seen && now_ns() < deadline);
    if (atomic_load(&epoch) != seen) continue;
    pthread_mutex_lock(&mutex);
    atomic_fetch_add(&sleepers, 1);
    while (atomic_load(&epoch) == seen) pthread_cond_wait(&wake, &mutex);
    atomic_fetch_sub(&sleepers, 1);
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}

/* Threads do not survive fork(), whether workers or callers: the child starts with none. */
static void after_fork(void) {
  atomic_store(&workers, 0);
  atomic_store(&sleepers, 0);
  atomic_store(&callers, 0);
  atomic_store(&working, 0);
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&wake, NULL);
  for (int i = 0; i < MAX_CALLERS; ++i) {
    atomic_store(&jobs[i].open, 0);
    atomic_store(&jobs[i].inside, 0);
    atomic_store(&jobs[i].owned, 0);
  }
}

/* On loading, not with the first worker: callers are counted before there is any. */
__attribute__((constructor)) static void set_up(void) { pthread_atfork(NULL, NULL, after_fork); }

static void start_workers(int wanted) {
  pthread_mutex_lock(&mutex);
  while (atomic_load(&workers) < wanted) {
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attr, worker_main, NULL);
    pthread_attr_destroy(&attr);
    if (failed) break;
    atomic_fetch_add(&workers, 1);
  }
  pthread_mutex_unlock(&mutex);
}

static job_t *acquire_job(void) {
  for (int i = 0; i < MAX_CALLERS; ++i) {
    int expected = 0;
    if (atomic_compare_exchange_strong(&jobs[i].owned, &expected, 1)) {
      int used = atomic_load(&jobs_used);
      while (used < i + 1 && !atomic_compare_exchange_weak(&jobs_used, &used, i + 1)) {}
      return &jobs[i];
    }
  }
  return NULL;
}

static int run_alone(body_t body, void *data) {
  env_t env = {NULL, 1};
  return body(0, &env, data);
}

/* Call `call(function, args, count, result)`, TVM's way to run a compiled function, whose parallel
 * loops may use so many threads, the calling one included, while so many compute in the whole
 * process (a model that wants more threads than there are cores brings its own number; that of the
 * latest call counts). One function and not a begin and an end around the call, so that no
 * interrupt of the host language gets between them. */
EXPORT int relaxc_pool_call(int threads, int all_cores, call_t call, void *function,
                            const void *args, int32_t count, void *result) {
  my_threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
  atomic_store_explicit(&cores, all_cores, memory_order_relaxed);
  atomic_fetch_add(&callers, 1);
  if (my_threads - 1 > atomic_load_explicit(&workers, memory_order_relaxed))
    start_workers(my_threads - 1);
  int status = call(function, args, count, result);
  atomic_fetch_sub(&callers, 1);
  return status;
}

/* Replaces TVMBackendParallelLaunch: 0 on success. */
EXPORT int relaxc_pool_launch(body_t body, void *data, int num_task) {
  int threads = my_threads;
  int room = atomic_load(&cores) - atomic_load(&callers);
  if (threads - 1 > room) threads = room + 1;
  if (threads <= 1 || inside_loop) return run_alone(body, data);
  job_t *job = acquire_job();
  if (job == NULL) return run_alone(body, data);
  int tasks = threads * TASKS_PER_THREAD;
  if (tasks < MIN_TASKS) tasks = MIN_TASKS;
  if (num_task > 0) tasks = num_task;
  for (int t = 0; t < threads; ++t) FETCH_TO_WRITE(&job->range[t]);
  job->body = body;
  job->data = data;
  job->env.sync_handle = NULL;
  job->env.num_task = tasks;
  job->ranges = threads;
  for (int t = 0; t < threads; ++t) {
    atomic_store_explicit(&job->range[t].next, (int)((int64_t)tasks * t / threads),
                          memory_order_relaxed);
    job->range[t].end = (int)((int64_t)tasks * (t + 1) / threads);
  }
  atomic_store_explicit(&job->failed, 0, memory_order_relaxed);
  /* Last: a worker that found the job open, from its use before, joins once there are seats. */
  atomic_store_explicit(&job->open, 1, memory_order_relaxed);
  atomic_store_explicit(&job->seats, threads - 1, memory_order_release);
  atomic_fetch_add(&epoch, 1);
  if (atomic_load(&sleepers) > 0) {
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
  }
  work(job, 0);
  /* Without seats nobody joins anyway. */
  if (atomic_load(&job->seats) > 0) atomic_store(&job->open, 0);
  int spins = 0;
  while (atomic_load(&job->inside) > 0) {
    if (++spins < 4096) RELAX();
    else sched_yield();
  }
  int failed = atomic_load(&job->failed);
  atomic_store(&job->owned, 0);
  return failed ? -1 : 0;
}

/* Replaces TVMBackendParallelBarrier: tasks are not threads here, they cannot wait for another. */
EXPORT int relaxc_pool_barrier(int task_id, env_t *env) {
  (void)task_id;
  (void)env;
  return -1;
}
