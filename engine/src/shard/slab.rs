//! Records in chunks: an index stays valid while the record lives, and growing never moves one.
//!
//! A table of a million flows that doubled as one allocation would copy 60 MB while events wait; here it takes one more
//! chunk. Chunks are kept when records leave: what the busiest hour needed will be needed again.

use crate::limits::SLAB_CHUNK_RECORDS;

/// Records by index.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    /// Each is given its memory at once, and its records one by one: memory is written to when it is needed.
    chunks: Vec<Vec<T>>,
    /// Indices that were in use and are not any more; taken again before new ones.
    free: Vec<u32>,
    /// Indices from here on have never been in use.
    fresh: u32,
}

impl<T: Copy + Default> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), fresh: 0 }
    }

    /// Takes a place for `record`; `None` when `bound` records are in use.
    pub(crate) fn insert(&mut self, record: T, bound: u32) -> Option<u32> {
        let Some(index) = self.free.pop() else { return self.append(record, bound) };
        *self.get_mut(index)? = record;
        Some(index)
    }

    fn append(&mut self, record: T, bound: u32) -> Option<u32> {
        let index = self.fresh;
        if index >= bound {
            return None;
        }
        if chunk_and_offset(index).0 == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(SLAB_CHUNK_RECORDS));
        }
        self.chunks.last_mut()?.push(record);
        self.fresh += 1;
        Some(index)
    }

    /// Gives the record's place back.
    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(record) = self.get_mut(index) {
            *record = T::default();
            self.free.push(index);
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (chunk, offset) = chunk_and_offset(index);
        self.chunks.get(chunk)?.get(offset)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (chunk, offset) = chunk_and_offset(index);
        self.chunks.get_mut(chunk)?.get_mut(offset)
    }

    /// Bytes of memory taken.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * SLAB_CHUNK_RECORDS * size_of::<T>() + self.free.capacity() * size_of::<u32>()
    }

    /// One past the highest index ever in use.
    pub(crate) fn index_end(&self) -> u32 {
        self.fresh
    }
}

#[inline]
fn chunk_and_offset(index: u32) -> (usize, usize) {
    let index = index as usize;
    (index / SLAB_CHUNK_RECORDS, index % SLAB_CHUNK_RECORDS)
}
