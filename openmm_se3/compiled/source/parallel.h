// Memory that threads keep, and loops that they share.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

// Numbers that are not given back until the thread ends.  Behind them is room for a whole
// register, which may be read from the last of them on.
template <class T>
class Buffer {
 public:
  T* reserve(std::size_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = size + size / 8;
      data_ = static_cast<T*>(std::aligned_alloc(64, (size_ * sizeof(T) + 127) / 64 * 64));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }
  ~Buffer() { std::free(data_); }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// Calls work(begin, end) for ranges of 0 to n - 1, one a thread.  OpenMP may give fewer
// threads than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC, a parallel region around).
template <class Work>
void in_parallel(int n, int threads, Work work) {
  if (threads <= 1 || n < 2) {
    work(0, n);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t count = omp_get_num_threads(), mine = omp_get_thread_num();
    work(static_cast<int>(n * mine / count), static_cast<int>(n * (mine + 1) / count));
  }
}

// Calls work(begin, end, accumulator) likewise, and returns the sum of the accumulators,
// which are arrays of `size` numbers.
template <class T, class Work>
T* sum_in_parallel(Buffer<T>& memory, std::size_t size, int n, int threads, Work work) {
  threads = std::max(1, std::min(threads, n));
  T* sums = memory.reserve(size * threads);
  if (threads == 1) {
    std::fill_n(sums, size, T(0));
    work(0, n, sums);
    return sums;
  }
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t count = omp_get_num_threads(), mine = omp_get_thread_num();
    std::fill_n(sums + mine * size, size, T(0));
    work(static_cast<int>(n * mine / count), static_cast<int>(n * (mine + 1) / count),
         sums + mine * size);
#pragma omp barrier
    const std::size_t end = size * (mine + 1) / count;
    for (std::size_t k = size * mine / count; k < end; ++k)
      for (std::int64_t other = 1; other < count; ++other) sums[k] += sums[k + other * size];
  }
  return sums;
}

// Adds up likewise, to what `sums` holds.
template <class T, class Work>
void add_in_parallel(T* sums, std::size_t size, int n, int threads, Work work) {
  if (threads <= 1 || n < 2) {
    work(0, n, sums);
    return;
  }
  static thread_local Buffer<T> memory;
  const T* more = sum_in_parallel(memory, size, n, threads, work);
  for (std::size_t k = 0; k < size; ++k) sums[k] += more[k];
}

}  // namespace
