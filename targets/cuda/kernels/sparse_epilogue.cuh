      // A thread has four neighbours of two rows in every eight: columns lie in such an order.
      static_assert(V == 4 && S == 4 && MT == 2, "four columns");
      int n = n0 + (threadIdx.x % 128 / 32 * 8 + (lane >> 2)) * 4, m1 = m0 + (lane & 3) * 2;
      constexpr int AT_ONCE = HAS_OPERANDS ? 4 : 1;
      if (n < N) {
        LOAD_COLUMNS
#pragma unroll
        for (int j0 = 0; j0 < NT; j0 += AT_ONCE) {
          Operands operands[AT_ONCE][2];
#pragma unroll
          for (int j = 0; j < AT_ONCE * 2; ++j) {
            int m = m1 + (j0 + j / 2) * 8 + j % 2;
            long long at = (long long)m * N + n;
            Operands& o = operands[j / 2][j % 2];
            if (m < rows) {
              LOAD_OPERANDS
            }
          }
#pragma unroll
          for (int j = 0; j < AT_ONCE * 2; ++j) {
            int m = m1 + (j0 + j / 2) * 8 + j % 2;
            if (m >= rows) continue;
            float v[S];
#pragma unroll
            for (int e = 0; e < S; ++e) v[e] = acc[e / 2][j0 + j / 2][e % 2 * 2 + j % 2];
            long long at = (long long)m * N + n;
            const Operands& o = operands[j / 2][j % 2];
            EPILOGUE
          }
        }
      }
