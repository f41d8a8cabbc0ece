//! A hash table of which a look-up touches one cache line.
//!
//! A copy of millions of memberships is far away from the processor: what a look-up costs is how many lines it waits for.
//! The standard library's table has its keys in one place and a byte for each in another, so that it waits twice. Here
//! the places are the lines themselves: an entry is in the line that its hash names, or, if that is full, in the first
//! after it that was not (linear probing by buckets; Knuth, The Art of Computer Programming, volume 3, section 6.4).
//! Removing fills the hole from behind, so that nothing is left that a later look-up would have to pass.
//!
//! It grows by a quarter and not to the double: of 64 bytes a membership may take, no half is left empty.

/// The bytes of a cache line, and of all that a look-up reads in the usual case.
const LINE: usize = 64;

/// What a table holds. Some value of its bytes means nothing at all, so that an empty place takes no more.
pub(super) trait TableEntry: Copy {
    /// What it is found by.
    type FingerprintKey: Copy + Eq;
    /// How many parts in 32 of the places may be taken: the more of them there are in a line, the fuller it may be.
    const FULL: usize;

    /// Its key.
    fn key(&self) -> Self::FingerprintKey;

    /// Where it belongs: the leading bits are as good as random.
    fn hash(key: Self::FingerprintKey) -> u64;
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine<E, const N: usize>([Option<E>; N]);

impl<E: TableEntry, const N: usize> CacheLine<E, N> {
    fn find(&self, key: E::FingerprintKey) -> Option<usize> {
        self.0.iter().position(|entry| entry.is_some_and(|entry| entry.key() == key))
    }

    fn free(&self) -> Option<usize> {
        self.0.iter().position(Option::is_none)
    }
}

/// A table with so many entries in a line.
pub(super) struct Table<E, const N: usize> {
    lines: Box<[CacheLine<E, N>]>,
    held: usize,
}

impl<E, const N: usize> Default for Table<E, N> {
    fn default() -> Self {
        const { assert!(size_of::<CacheLine<E, N>>() == LINE, "so many entries fill a line") };
        Self { lines: Box::default(), held: 0 }
    }
}

impl<E: TableEntry, const N: usize> Table<E, N> {
    /// How many entries it holds.
    pub(super) fn len(&self) -> usize {
        self.held
    }

    /// All entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.lines.iter().flat_map(|line| &line.0).flatten()
    }

    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }

    /// The entry of a key.
    pub(super) fn get(&self, key: E::FingerprintKey) -> Option<&E> {
        let (line, place) = self.seek(key)?;
        self.lines[line].0[place].as_ref()
    }

    /// The entry of a key, to be changed in everything but its key.
    pub(super) fn get_mut(&mut self, key: E::FingerprintKey) -> Option<&mut E> {
        let (line, place) = self.seek(key)?;
        self.lines[line].0[place].as_mut()
    }

    /// Puts an entry in, and takes out the one that had its key.
    pub(super) fn put(&mut self, entry: E) -> Option<E> {
        if let Some(there) = self.get_mut(entry.key()) {
            return Some(std::mem::replace(there, entry));
        }
        while (self.held + 1) * 32 > self.lines.len() * N * E::FULL {
            self.grow();
        }
        self.add(entry);
        None
    }

    /// Takes out the entry of a key.
    pub(super) fn remove(&mut self, key: E::FingerprintKey) -> Option<E> {
        let (line, place) = self.seek(key)?;
        let full = self.lines[line].free().is_none();
        let gone = self.lines[line].0[place].take();
        self.held -= 1;
        if full {
            self.fill(line, place);
        }
        gone
    }

    /// Where the entry of a key is. Some line is not full, so the search ends.
    fn seek(&self, key: E::FingerprintKey) -> Option<(usize, usize)> {
        if self.held == 0 {
            return None;
        }
        let mut at = self.home(key);
        loop {
            let line = &self.lines[at];
            if let Some(place) = line.find(key) {
                return Some((at, place));
            }
            if line.free().is_some() {
                return None;
            }
            at = self.after(at);
        }
    }

    /// The line where a key belongs: the hash as a fraction of all lines, so that there may be any number of them.
    fn home(&self, key: E::FingerprintKey) -> usize {
        let lines = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        usize::try_from((u128::from(E::hash(key)) * u128::from(lines)) >> 64).unwrap_or_default()
    }

    fn after(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// How many steps it is from one line on to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.lines.len() - from }
    }

    /// Adds what is not there to a table that has room.
    fn add(&mut self, entry: E) {
        let mut at = self.home(entry.key());
        loop {
            if let Some(place) = self.lines[at].free() {
                self.lines[at].0[place] = Some(entry);
                self.held += 1;
                return;
            }
            at = self.after(at);
        }
    }

    fn grow(&mut self) {
        let lines = self.lines.len() + self.lines.len() / 4 + 1;
        let grown = Self { lines: vec![CacheLine([None; N]); lines].into_boxed_slice(), held: 0 };
        for entry in std::mem::replace(self, grown).iter() {
            self.add(*entry);
        }
    }

    /// Fills a hole in a line that was full, with what had to go past that line: a search would now end there. That leaves
    /// a hole where it was, and so on, up to a line that was not full: nothing goes past that one.
    fn fill(&mut self, mut hole: usize, mut place: usize) {
        let mut at = hole;
        loop {
            at = self.after(at);
            let line = self.lines[at];
            let past = |entry: &E| self.steps(self.home(entry.key()), at) >= self.steps(hole, at);
            if let Some(from) = line.0.iter().position(|entry| entry.as_ref().is_some_and(past)) {
                self.lines[hole].0[place] = self.lines[at].0[from].take();
                (hole, place) = (at, from);
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

    /// A key that says itself where it belongs, and a value.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Pair(NonZeroU64, u64);

    impl TableEntry for Pair {
        type FingerprintKey = NonZeroU64;
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
        /// Sixteen places to belong to for sixty keys: lines overflow into others, around the end too.
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((any::<bool>(), 1..60u64, 1..9u64), 1..400)) {
            let (mut table, mut map) = (Table::<Pair, 4>::default(), BTreeMap::new());
            for (puts, number, value) in steps {
                let before = if puts { map.insert(number, value) } else { map.remove(&number) };
                let before = before.map(|value| Pair(key(number), value));
                let found =
                    if puts { table.put(Pair(key(number), value)) } else { table.remove(key(number)) };
                prop_assert_eq!(found, before);
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
    fn it_grows_little_by_little() {
        let mut table = Table::<Pair, 4>::default();
        for number in 1..=1_000 {
            table.put(Pair(key(number), number));
            let places = table.bytes() / size_of::<Pair>();
            assert!(table.len() * 32 <= places * Pair::FULL, "{number} of {places}");
            assert!(number < 100 || table.len() * 32 > places * Pair::FULL * 3 / 4, "{number} of {places}");
        }
    }
}
