//! Which keys a landing wrote, to be kept with it: eight bytes a key.
//!
//! Recovery asks whether a delivery of the old hub overwrote a local change that had not been judged. Covers cannot
//! tell: they say what a landing reflects, not what it wrote. Two keys of one hash are taken for one, which at worst
//! puts a row back that is there already, or records an override that was knowing.

use crate::delivery::{Delivery, Landed};
use crate::key::Key;

/// The hashes of a landing's keys, or that they are not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wrote(Option<Vec<u64>>);

impl Wrote {
    /// Recovery then takes it for possible that the landing wrote any key: rows are put back to be sure, but an
    /// override that needs a record may go without.
    pub fn unknown() -> Wrote {
        Wrote(None)
    }

    pub fn keys<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Wrote {
        let keys = keys.into_iter();
        let mut hashes = Vec::with_capacity(keys.size_hint().1.unwrap_or(0));
        hashes.extend(keys.map(hash));
        hashes.sort_unstable();
        Wrote(Some(hashes))
    }

    /// For the landing's row, each as eight bytes, the lowest first. What is not known is not to be stored.
    pub fn hashes(&self) -> Option<&[u64]> {
        self.0.as_deref()
    }

    pub fn from_bytes(bytes: Option<&[u8]>) -> Wrote {
        let Some(bytes) = bytes else {
            return Wrote::unknown();
        };
        let (words, _) = bytes.as_chunks::<8>();
        let mut hashes: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
        hashes.sort_unstable();
        Wrote(Some(hashes))
    }

    pub(crate) fn what(&self, key: &Key) -> Touch {
        let Some(hashes) = &self.0 else {
            return Touch::Unknown;
        };
        let has = |key: &Key| hashes.binary_search(&hash(key)).is_ok();
        match (has(key), has(&Key::whole_table(key.table()))) {
            (true, _) => Touch::Wrote,
            (false, true) => Touch::Swept,
            (false, false) => Touch::Nothing,
        }
    }
}

/// What a landing did to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    Nothing,
    /// A TRUNCATE removed it and no row was written behind: the canonical is absent, or held.
    Swept,
    Wrote,
    Unknown,
}

impl<I> Delivery<I> {
    /// What this delivery wrote, given how it ended; only `landed.held` is looked at. A delete that found nothing counts.
    pub fn wrote(&self, landed: &Landed) -> Wrote {
        let truncates: Vec<Key> = self.truncates.iter().map(|t| Key::whole_table(t.table)).collect();
        let keys = self.rows.iter().map(|r| &r.key).chain(&truncates);
        if landed.held.is_empty() {
            return Wrote::keys(keys);
        }
        let not: std::collections::HashSet<&Key> = landed.held.iter().collect();
        Wrote::keys(keys.filter(|k| !not.contains(k)))
    }
}

/// FNV-1a. Stored, so it must never change.
fn hash(key: &Key) -> u64 {
    let table = key.table().0.to_le_bytes();
    let bytes = table.iter().chain(key.bytes().iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
