//! A hash table whose lookups normally read one cache line.
//!
//! A replica of millions of memberships does not fit into the processor's caches: the cost of a lookup is the number of
//! cache lines it waits for. The standard library's table stores keys and control bytes apart, so a lookup waits twice.
//! Here the buckets are the cache lines themselves: an entry is in the line that its hash selects, or, if that is full,
//! in the first later line that was not (linear probing by buckets; Knuth, The Art of Computer Programming, volume 3,
//! section 6.4). Removing an entry moves a later one into the hole, so that there are no tombstones for lookups to
//! pass.
//!
//! The table grows by a quarter instead of doubling: with a budget of 64 bytes per membership, half of it must not stay
//! empty.

/// The size of a cache line in bytes: all that a lookup normally reads.
const LINE: usize = 64;

/// An entry of a table. `Option<Self>` must be as large as `Self`, so that an empty slot costs no extra space.
pub(super) trait TableEntry: Copy {
    /// The type of the entry's key.
    type Key: Copy + Eq;
    /// The maximum load factor, in 32nds: the more entries there are per line, the fuller the table may be.
    const FULL: usize;

    /// The entry's key.
    fn key(&self) -> Self::Key;

    /// The key's hash, which selects its line; the leading bits must be evenly distributed.
    fn hash(key: Self::Key) -> u64;
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine<E, const N: usize>([Option<E>; N]);

impl<E: TableEntry, const N: usize> CacheLine<E, N> {
    fn find(&self, key: E::Key) -> Option<usize> {
        self.0.iter().position(|entry| entry.is_some_and(|entry| entry.key() == key))
    }

    fn free(&self) -> Option<usize> {
        self.0.iter().position(Option::is_none)
    }
}

/// A table with `N` entries per cache line.
pub(super) struct Table<E, const N: usize> {
    lines: Box<[CacheLine<E, N>]>,
    len: usize,
}

impl<E, const N: usize> Default for Table<E, N> {
    fn default() -> Self {
        const { assert!(size_of::<CacheLine<E, N>>() == LINE, "N entries must fill a cache line") };
        Self { lines: Box::default(), len: 0 }
    }
}

impl<E: TableEntry, const N: usize> Table<E, N> {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All entries, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.lines.iter().flat_map(|line| &line.0).flatten()
    }

    /// The table's memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }

    /// The entry with this key.
    pub(super) fn get(&self, key: E::Key) -> Option<&E> {
        let (line, slot) = self.seek(key)?;
        self.lines[line].0[slot].as_ref()
    }

    /// The entry with this key. The caller must not change the key.
    pub(super) fn get_mut(&mut self, key: E::Key) -> Option<&mut E> {
        let (line, slot) = self.seek(key)?;
        self.lines[line].0[slot].as_mut()
    }

    /// Inserts an entry and returns the previous one with the same key.
    pub(super) fn put(&mut self, entry: E) -> Option<E> {
        if let Some(previous) = self.get_mut(entry.key()) {
            return Some(std::mem::replace(previous, entry));
        }
        while (self.len + 1) * 32 > self.lines.len() * N * E::FULL {
            self.grow();
        }
        self.add(entry);
        None
    }

    /// Removes the entry with this key and returns it.
    pub(super) fn remove(&mut self, key: E::Key) -> Option<E> {
        let (line, slot) = self.seek(key)?;
        let was_full = self.lines[line].free().is_none();
        let entry = self.lines[line].0[slot].take();
        self.len -= 1;
        if was_full {
            self.fill_hole(line, slot);
        }
        entry
    }

    /// The line and the slot of the entry with this key. The search ends, because at least one line is not full.
    fn seek(&self, key: E::Key) -> Option<(usize, usize)> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.line_of(key);
        loop {
            let line = &self.lines[at];
            if let Some(slot) = line.find(key) {
                return Some((at, slot));
            }
            if line.free().is_some() {
                return None;
            }
            at = self.after(at);
        }
    }

    /// The line that a key's hash selects: the hash as a fraction of the number of lines, which may be any number.
    fn line_of(&self, key: E::Key) -> usize {
        let lines = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        usize::try_from((u128::from(E::hash(key)) * u128::from(lines)) >> 64).unwrap_or_default()
    }

    fn after(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// The number of steps from one line forward to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.lines.len() - from }
    }

    /// Adds an entry whose key is not in the table. The table must have room.
    fn add(&mut self, entry: E) {
        let mut at = self.line_of(entry.key());
        loop {
            if let Some(slot) = self.lines[at].free() {
                self.lines[at].0[slot] = Some(entry);
                self.len += 1;
                return;
            }
            at = self.after(at);
        }
    }

    fn grow(&mut self) {
        let lines = self.lines.len() + self.lines.len() / 4 + 1;
        let grown = Self { lines: vec![CacheLine([None; N]); lines].into_boxed_slice(), len: 0 };
        for entry in std::mem::replace(self, grown).iter() {
            self.add(*entry);
        }
    }

    /// Fills a hole in a line that was full with an entry that had overflowed past that line, because a search would
    /// now end at the hole. The moved entry leaves another hole, and so on, up to a line that was not full: no entry
    /// overflows past such a line.
    fn fill_hole(&mut self, mut hole: usize, mut slot: usize) {
        let mut at = hole;
        loop {
            at = self.after(at);
            let line = self.lines[at];
            let overflowed = |entry: &E| self.steps(self.line_of(entry.key()), at) >= self.steps(hole, at);
            if let Some(from) = line.0.iter().position(|entry| entry.as_ref().is_some_and(overflowed)) {
                self.lines[hole].0[slot] = self.lines[at].0[from].take();
                (hole, slot) = (at, from);
            }
            if line.free().is_some() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::num::NonZeroU64;

    /// A key whose hash is its own low bits, and a value.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Pair(NonZeroU64, u64);

    impl TableEntry for Pair {
        type Key = NonZeroU64;
        const FULL: usize = 28;

        fn key(&self) -> NonZeroU64 {
            self.0
        }

        fn hash(key: NonZeroU64) -> u64 {
            key.get() << 60
        }
    }

    fn key(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).unwrap()
    }

    proptest! {
        /// Sixteen hashes for sixty keys: lines overflow into others, also around the end.
        #[test]
        fn a_table_behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 1..60u64, 1..9u64), 1..400)) {
            let (mut table, mut map) = (Table::<Pair, 4>::default(), BTreeMap::new());
            for (puts, number, value) in steps {
                let before = if puts { map.insert(number, value) } else { map.remove(&number) };
                let before = before.map(|value| Pair(key(number), value));
                let previous =
                    if puts { table.put(Pair(key(number), value)) } else { table.remove(key(number)) };
                prop_assert_eq!(previous, before);
                prop_assert_eq!(table.len(), map.len());
                for number in 1..60 {
                    prop_assert_eq!(table.get(key(number)).map(|pair| pair.1), map.get(&number).copied());
                }
                let mut all: Vec<_> = table.iter().map(|pair| (pair.0.get(), pair.1)).collect();
                all.sort_unstable();
                prop_assert_eq!(all, map.clone().into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_table_grows_by_a_quarter() {
        let mut table = Table::<Pair, 4>::default();
        for number in 1..=1_000 {
            table.put(Pair(key(number), number));
            let slots = table.bytes() / size_of::<Pair>();
            assert!(table.len() * 32 <= slots * Pair::FULL, "{number} of {slots}");
            assert!(number < 100 || table.len() * 32 > slots * Pair::FULL * 3 / 4, "{number} of {slots}");
        }
    }
}
