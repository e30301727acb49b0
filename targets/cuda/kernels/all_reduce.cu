// Adds up what each of several GPUs has of a tensor, so that all of them have the sum. Each sends
// its part to all others, into their memory, and adds up what it has and what it got, in the order of
// the GPUs: all get the same bits. What is sent must not overtake what is read: data are kept per
// block for two rounds in turn, and who has the data of one round knows that all have read those of
// the round before. Kernels of all GPUs do the same rounds with the same blocks.

typedef unsigned long long Number;

__device__ __forceinline__ unsigned char* area_of(const Number* communicator, int rank) {
  return reinterpret_cast<unsigned char*>(communicator[AREAS + rank]);
}
template <int COUNT, typename Type> __device__ __forceinline__ void store_held(unsigned char* to, const Held<COUNT, Type>& from) {
  if constexpr (sizeof from.words % 16 == 0) {
#pragma unroll
    for (int i = 0; i < (int)(sizeof from.words / 16); ++i) {
      const unsigned* w = from.words + i * 4;
      reinterpret_cast<uint4*>(to)[i] = make_uint4(w[0], w[1], w[2], w[3]);
    }
  } else if constexpr (sizeof from.words == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(from.words[0], from.words[1]);
  } else {
#pragma unroll
    for (int e = 0; e < COUNT; ++e) reinterpret_cast<Type*>(to)[e] = from.at[e];
  }
}
OPERANDS

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  wait_for_predecessor();
  const Number* communicator = reinterpret_cast<const Number*>(COMMUNICATOR);
  int rank = (int)load_fresh_32(communicator + RANK);
  int ranks = (int)load_fresh_32(communicator + RANKS);
  bool joined = load_fresh_32(communicator + IS_JOINED) != 0;
  unsigned char* own = area_of(communicator, rank);
  unsigned* counter = reinterpret_cast<unsigned*>(own + COUNTERS) + blockIdx.x;
  unsigned round = joined ? load_fresh_32(counter) : 0;
  constexpr int PER_ROUND = THREADS * STEPS;
  // All threads take part in every round, with or without data: those of the next one are written
  // where others may still read those of the last but one.
  for (int first = blockIdx.x * PER_ROUND; first < ITEMS; first += BLOCKS * PER_ROUND) {
    if (joined) ++round;
    size_t place = DATA + (size_t)ranks * (DATA_PER_RANK + (size_t)(blockIdx.x * 2 + (round & 1)) * BLOCK_BYTES);
#if IS_SMALL
    int item = first + threadIdx.x;
    Held<V, X> mine;
#pragma unroll
    for (int i = 0; i < (int)(sizeof mine.words / 4); ++i) mine.words[i] = 0;
    if (item < ITEMS) mine.load(X_POINTER + (long long)item * V);
    Operands o;
    long long at = (long long)item * V;
    if (item < ITEMS) {
      LOAD_OPERANDS
    }
    if (joined) {
      for (int q = 0; q < ranks; ++q) {
        if (q == rank) continue;
        unsigned char* to = area_of(communicator, q) + place + (size_t)rank * BLOCK_BYTES;
#pragma unroll
        for (int l = 0; l < LINES; ++l)
          store_line(to + (l * THREADS + threadIdx.x) * 16, mine.words[l * 2], LINE_HAS_TWO ? mine.words[l * 2 + 1] : 0u, round);
      }
    }
    float v[V] = {};
    for (int q = 0; q < ranks; ++q) {
      if (!joined && q != rank) continue;
      Held<V, X> part = mine;
      if (q != rank) {
        const unsigned char* from = own + place + (size_t)q * BLOCK_BYTES;
#pragma unroll
        for (int l = 0; l < LINES; ++l) {
          uint2 words = await_line(from + (l * THREADS + threadIdx.x) * 16, round);
          part.words[l * 2] = words.x;
          if (LINE_HAS_TWO) part.words[l * 2 + 1] = words.y;
        }
      }
#pragma unroll
      for (int e = 0; e < V; ++e) v[e] += part[e];
    }
    if (item >= ITEMS) continue;
    int n = (int)(at % N);
    EPILOGUE
#else
    if (joined) {
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
        int item = first + s * THREADS + threadIdx.x;
        if (item >= ITEMS) continue;
        Held<V, X> mine;
        mine.load(X_POINTER + (long long)item * V);
        for (int q = 0; q < ranks; ++q) {
          if (q == rank) continue;
          unsigned char* to = area_of(communicator, q) + place + (size_t)rank * BLOCK_BYTES;
          store_held(to + (s * THREADS + threadIdx.x) * (V * sizeof(X)), mine);
        }
      }
      __syncthreads();
      if (threadIdx.x < ranks && threadIdx.x != rank) {
        size_t flags = FLAGS + (size_t)blockIdx.x * (MOST_RANKS * 4);
        send_signal(area_of(communicator, threadIdx.x) + flags + rank * 4, round);
        await_signal(own + flags + threadIdx.x * 4, round);
      }
      __syncthreads();
    }
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      int item = first + s * THREADS + threadIdx.x;
      if (item >= ITEMS) continue;
      long long at = (long long)item * V;
      Operands o;
      LOAD_OPERANDS
      float v[V] = {};
      for (int q = 0; q < ranks; ++q) {
        if (!joined && q != rank) continue;
        const unsigned char* from = own + place + (size_t)q * BLOCK_BYTES;
        const X* there = reinterpret_cast<const X*>(from) + (s * THREADS + threadIdx.x) * V;
        Held<V, X> part;
        part.load(q == rank ? X_POINTER + at : there);
#pragma unroll
        for (int e = 0; e < V; ++e) v[e] += part[e];
      }
      int n = (int)(at % N);
      EPILOGUE
    }
#endif
  }
  __syncthreads();
  if (joined && threadIdx.x == 0) *counter = round;
}
