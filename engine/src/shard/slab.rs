//! Records in chunks: an index stays valid while the record is held, and growing never moves a record.
//!
//! A table of a million flows in a single allocation would copy 60 MB when it doubles, while events wait; a slab
//! allocates one more chunk. Chunks are kept when records are removed: the busiest hour will need them again.

use crate::limits::SLAB_CHUNK_RECORDS;

/// Records by index.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    /// A chunk's memory is allocated at once and filled record by record, so pages are touched only when they are
    /// needed.
    chunks: Vec<Vec<T>>,
    /// Indices of removed records, which are used again before new ones.
    free: Vec<u32>,
    /// The lowest index that was never in use.
    fresh: u32,
}

impl<T: Copy + Default> Slab<T> {
    /// An empty slab, without memory.
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), fresh: 0 }
    }

    /// Stores `record` and returns its index; `None` when `records_max` records are held.
    pub(crate) fn insert(&mut self, record: T, records_max: u32) -> Option<u32> {
        let Some(index) = self.free.pop() else { return self.append(record, records_max) };
        *self.get_mut(index)? = record;
        Some(index)
    }

    /// Stores `record` at an index that was never in use.
    fn append(&mut self, record: T, records_max: u32) -> Option<u32> {
        let index = self.fresh;
        if index >= records_max {
            return None;
        }
        if chunk_and_offset(index).0 == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(SLAB_CHUNK_RECORDS));
        }
        self.chunks.last_mut()?.push(record);
        self.fresh += 1;
        Some(index)
    }

    /// Removes the record at `index`: its place becomes the default record, and the index is free.
    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(record) = self.get_mut(index) {
            *record = T::default();
            self.free.push(index);
        }
    }

    /// The record at `index`. A removed record reads as the default.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (chunk, offset) = chunk_and_offset(index);
        self.chunks.get(chunk)?.get(offset)
    }

    /// The record at `index` for changes. A removed record reads as the default.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (chunk, offset) = chunk_and_offset(index);
        self.chunks.get_mut(chunk)?.get_mut(offset)
    }

    /// Bytes of memory that the slab takes.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * SLAB_CHUNK_RECORDS * size_of::<T>() + self.free.capacity() * size_of::<u32>()
    }

    /// One more than the highest index that was ever in use.
    pub(crate) fn index_end(&self) -> u32 {
        self.fresh
    }
}

/// The chunk of `index`, and the position within it.
#[inline]
fn chunk_and_offset(index: u32) -> (usize, usize) {
    let index = index as usize;
    (index / SLAB_CHUNK_RECORDS, index % SLAB_CHUNK_RECORDS)
}
