//! How does a proxy remember its tables while it is not running?
//!
//! ```text
//! "ISTHSNAP" | version u32 | payload bytes u64 | FNV-1a of the payload u64 | payload
//! payload: owner, generation u64, then records: tag u8, fields
//! ```
//!
//! Numbers are big-endian; texts and bytes carry their length as u32. The file may hold handle
//! keys: it is as secret as they are.

use std::collections::BTreeSet;

use bytes::Bytes;
use isthmus_proto::positions::Positions;

use super::builder::SnapshotBuilder;
use super::shelf::Shelf;
use super::update::{Kind, Update};
use super::{Generation, Rejected};

/// Marks the file as ours.
const MAGIC: &[u8; 8] = b"ISTHSNAP";
/// Magic, format, length and checksum.
const HEADER_BYTES: usize = 28;
/// Of the format. Another version is not read: the control plane is asked instead.
pub const FORMAT: u32 = 1;
/// Largest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 256 << 20;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Whose tables these are: the proxy's workload name.
    pub owner: String,
    /// Of the last snapshot.
    pub generation: Generation,
    /// Every resource that was accepted.
    pub records: Records,
    /// Kinds that had an answer, even if it was that there is nothing.
    pub answered: BTreeSet<Kind>,
    /// Keys and names under which there is known to be nothing.
    pub empty: BTreeSet<(Kind, String)>,
    /// Keys under which the proxy asked for services, to ask for again.
    pub keys: BTreeSet<String>,
    /// How new all of it is.
    pub positions: Positions,
}

/// One accepted resource; or a policy that never was, and that denies as long as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub kind: Kind,
    /// Its name in discovery.
    pub name: String,
    /// Keys under which it was answered.
    pub aliases: Vec<String>,
    /// The version that was accepted. Empty: none was.
    pub version: String,
    /// The content, encoded.
    pub body: Bytes,
}

/// Accepted resources, each as it stands in the file: as values ten thousand of them would be larger than the
/// tables that are made of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Records(Vec<u8>);

impl Records {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = Record> {
        let mut reader = Reader { rest: &self.0 };
        // All of it was written by `push`, and can be read.
        std::iter::from_fn(move || reader.tagged_record().ok())
    }

    fn push(&mut self, record: &Record) {
        let out = &mut self.0;
        out.push(RECORD);
        put(out, record.kind.name().as_bytes());
        put(out, record.name.as_bytes());
        put(out, record.version.as_bytes());
        put_count(out, record.aliases.len());
        for alias in &record.aliases {
            put(out, alias.as_bytes());
        }
        put(out, &record.body);
    }
}

impl Extend<Record> for Records {
    fn extend<I: IntoIterator<Item = Record>>(&mut self, records: I) {
        for record in records {
            self.push(&record);
        }
    }
}

impl FromIterator<Record> for Records {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut all = Self::default();
        all.extend(records);
        all
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFile {
    /// Something else.
    #[error("not a snapshot file")]
    Foreign,
    /// Written by another version of the proxy.
    #[error("snapshot format {0} is not {FORMAT}")]
    Format(u32),
    /// Cut off, or with something behind it.
    #[error("the snapshot should have {expected} bytes and has {found}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Changed since it was written.
    #[error("the snapshot's checksum is wrong")]
    Checksum,
    /// Of another workload.
    #[error("the snapshot is {found}'s, not {expected}'s")]
    Owner {
        /// Who reads.
        expected: String,
        /// Who wrote.
        found: String,
    },
    /// The content can't be read, although it is as it was written.
    #[error("the snapshot is malformed {left} bytes before its end: {why}")]
    Malformed {
        /// Where, from the end.
        left: usize,
        /// The rule that it breaks.
        why: &'static str,
    },
}

impl Saved {
    /// The news that rebuilds the tables, in the order in which it should be applied.
    pub fn updates(&self) -> impl Iterator<Item = Update> {
        let answered = self
            .answered
            .iter()
            .map(|kind| Update::Answered { kind: *kind });
        let empty = self.empty.iter().map(|(kind, name)| Update::Remove {
            kind: *kind,
            name: name.clone(),
        });
        let records = self.records.iter().map(|record| {
            let Record {
                kind,
                name,
                aliases,
                version,
                body,
            } = record;
            Update::Upsert {
                kind,
                name,
                aliases,
                version,
                body,
            }
        });
        answered.chain(empty).chain(records)
    }
}

impl SnapshotBuilder {
    /// Everything that was accepted, to be saved. `keys`: under which services were asked for.
    #[must_use]
    pub fn export(&self, owner: &str, keys: BTreeSet<String>) -> Saved {
        let mut saved = Saved {
            owner: owner.to_owned(),
            generation: self.generation(),
            keys,
            ..Saved::default()
        };
        take(&mut saved, Kind::Workload, &self.workloads);
        take(&mut saved, Kind::AccessPolicy, &self.policies);
        take(&mut saved, Kind::TrustBundle, &self.trust);
        take(&mut saved, Kind::Gateway, &self.gateways);
        take(&mut saved, Kind::ClusterFreshness, &self.clusters);
        take(&mut saved, Kind::ExportedEndpoint, &self.exports);
        take(&mut saved, Kind::HandleKeys, &self.handle_keys);
        for (name, slot) in &self.slots {
            if let Some(held) = slot.spec() {
                saved.records.push(&Record {
                    kind: Kind::Service,
                    name: name.to_string(),
                    aliases: held.aliases.iter().map(ToString::to_string).collect(),
                    version: String::from_utf8_lossy(&held.version).into_owned(),
                    body: held.body.clone(),
                });
            }
            take_records(&mut saved, Kind::Route, &slot.routes);
            saved.records.extend(slot.endpoints.records());
            // Known to be none: saved under the service's name.
            if slot.routes.answered && slot.routes.is_empty() {
                saved.empty.insert((Kind::Route, name.to_string()));
            }
            if slot.endpoints.answered && slot.endpoints.is_empty() {
                saved.empty.insert((Kind::Endpoint, name.to_string()));
            }
        }
        let keys = [
            (Kind::Service, &self.empty.services),
            (Kind::Route, &self.empty.routes),
            (Kind::Endpoint, &self.empty.endpoints),
        ];
        for (kind, keys) in keys {
            saved
                .empty
                .extend(keys.iter().map(|key| (kind, key.to_string())));
        }
        saved
    }

    /// Takes over what was saved. What this version refuses, it names.
    pub fn import(&mut self, saved: &Saved) -> Vec<Rejected> {
        self.continue_after(saved.generation);
        saved
            .updates()
            .flat_map(|update| self.apply(update))
            .collect()
    }
}

fn take<T>(saved: &mut Saved, kind: Kind, shelf: &Shelf<T>) {
    if shelf.answered {
        saved.answered.insert(kind);
    }
    take_records(saved, kind, shelf);
}

fn take_records<T>(saved: &mut Saved, kind: Kind, shelf: &Shelf<T>) {
    saved
        .records
        .extend(shelf.iter().map(|(name, held)| Record {
            kind,
            name: name.to_owned(),
            aliases: held.aliases.iter().map(ToString::to_string).collect(),
            version: String::from_utf8_lossy(&held.version).into_owned(),
            body: held.body.clone(),
        }));
}

const RECORD: u8 = 1;
const ANSWERED: u8 = 2;
const EMPTY: u8 = 3;
const KEY: u8 = 4;
const POSITIONS: u8 = 5;

/// The bytes of a file.
#[must_use]
pub fn encode(saved: &Saved) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER_BYTES + saved.records.0.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&FORMAT.to_be_bytes());
    // Length and checksum: once the rest is there.
    file.extend_from_slice(&[0; 16]);
    put(&mut file, saved.owner.as_bytes());
    file.extend_from_slice(&saved.generation.0.to_be_bytes());
    file.extend_from_slice(&saved.records.0);
    for kind in &saved.answered {
        file.push(ANSWERED);
        put(&mut file, kind.name().as_bytes());
    }
    for (kind, key) in &saved.empty {
        file.push(EMPTY);
        put(&mut file, kind.name().as_bytes());
        put(&mut file, key.as_bytes());
    }
    for key in &saved.keys {
        file.push(KEY);
        put(&mut file, key.as_bytes());
    }
    if !saved.positions.is_empty() {
        file.push(POSITIONS);
        put(&mut file, saved.positions.to_string().as_bytes());
    }
    let payload = file.get(HEADER_BYTES..).unwrap_or_default();
    let (bytes, sum) = (length(payload.len()), checksum(payload));
    let header = bytes.to_be_bytes().into_iter().chain(sum.to_be_bytes());
    for (place, byte) in file.iter_mut().skip(HEADER_BYTES - 16).zip(header) {
        *place = byte;
    }
    file
}

/// Reads the bytes of a file that `owner` wrote.
///
/// # Errors
/// It is foreign, of another format, cut off, changed, another workload's, or malformed.
pub fn decode(file: &[u8], owner: &str) -> Result<Saved, InvalidFile> {
    let rest = file.strip_prefix(MAGIC).ok_or(InvalidFile::Foreign)?;
    let mut reader = Reader { rest };
    let cut_off = |_| InvalidFile::Length {
        expected: length(HEADER_BYTES),
        found: length(file.len()),
    };
    let format = reader.array().map(u32::from_be_bytes).map_err(cut_off)?;
    if format != FORMAT {
        return Err(InvalidFile::Format(format));
    }
    let expected = reader.array().map(u64::from_be_bytes).map_err(cut_off)?;
    let sum = reader.array().map(u64::from_be_bytes).map_err(cut_off)?;
    let found = length(reader.rest.len());
    if expected != found || file.len() > FILE_BYTES_MAX {
        return Err(InvalidFile::Length { expected, found });
    }
    if checksum(reader.rest) != sum {
        return Err(InvalidFile::Checksum);
    }
    let found = reader.text()?;
    if found != owner {
        return Err(InvalidFile::Owner {
            expected: owner.to_owned(),
            found,
        });
    }
    let generation = Generation(reader.array().map(u64::from_be_bytes)?);
    let mut saved = Saved {
        owner: found,
        generation,
        ..Saved::default()
    };
    while !reader.rest.is_empty() {
        reader.entry(&mut saved)?;
    }
    Ok(saved)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Texts and bodies come from messages of at most a few MiB.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// FNV-1a, 64 bits: against accidents, not against anybody.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| {
        (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    })
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn malformed(&self, why: &'static str) -> InvalidFile {
        InvalidFile::Malformed {
            left: self.rest.len(),
            why,
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidFile> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.malformed("a number is cut off"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn count(&mut self) -> Result<usize, InvalidFile> {
        let count = self.array().map(u32::from_be_bytes)?;
        usize::try_from(count).map_err(|_| self.malformed("a count is too large"))
    }

    fn bytes(&mut self) -> Result<&[u8], InvalidFile> {
        let count = self.count()?;
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.malformed("a text is cut off"))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, InvalidFile> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    fn kind(&mut self) -> Result<Kind, InvalidFile> {
        let name = self.text()?;
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| self.malformed("a kind is not known"))
    }

    fn tagged_record(&mut self) -> Result<Record, InvalidFile> {
        let [_] = self.array()?;
        self.record()
    }

    fn record(&mut self) -> Result<Record, InvalidFile> {
        let (kind, name, version) = (self.kind()?, self.text()?, self.text()?);
        let mut aliases = Vec::new();
        for _ in 0..self.count()? {
            aliases.push(self.text()?);
        }
        Ok(Record {
            kind,
            name,
            aliases,
            version,
            body: Bytes::copy_from_slice(self.bytes()?),
        })
    }

    fn entry(&mut self, saved: &mut Saved) -> Result<(), InvalidFile> {
        let [tag] = self.array()?;
        match tag {
            RECORD => {
                let record = self.record()?;
                saved.records.push(&record);
            }
            ANSWERED => {
                saved.answered.insert(self.kind()?);
            }
            EMPTY => {
                saved.empty.insert((self.kind()?, self.text()?));
            }
            KEY => {
                saved.keys.insert(self.text()?);
            }
            POSITIONS => saved.positions = Positions::read(&self.text()?),
            _ => return Err(self.malformed("a record has a tag that is not known")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_saved() -> impl Strategy<Value = Saved> {
        let kind = || proptest::sample::select(Kind::ALL.to_vec());
        let record = (
            kind(),
            "\\PC{0,9}",
            "[a-z]{0,4}",
            proptest::collection::vec("[a-z]{0,4}", 0..3),
        )
            .prop_flat_map(|(kind, name, version, aliases)| {
                proptest::collection::vec(any::<u8>(), 0..20).prop_map(move |body| Record {
                    kind,
                    name: name.clone(),
                    aliases: aliases.clone(),
                    version: version.clone(),
                    body: body.into(),
                })
            });
        (
            any::<u64>(),
            proptest::collection::vec(record, 0..4),
            proptest::collection::btree_set(kind(), 0..3),
            proptest::collection::btree_set((kind(), "[a-z:/]{0,5}"), 0..3),
            proptest::collection::btree_set("[a-z:/]{0,5}", 0..3),
            "([a-z]{1,4}/[A-Z][a-z]{0,3}=[0-9]{1,9} ){0,3}",
        )
            .prop_map(
                |(generation, records, answered, empty, keys, positions)| Saved {
                    owner: "east/shop/cart-1".to_owned(),
                    generation: Generation(generation),
                    records: records.into_iter().collect(),
                    answered,
                    empty,
                    keys,
                    positions: Positions::read(&positions),
                },
            )
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_with_the_reason() {
        let file = encode(&Saved {
            owner: "a/b/c".to_owned(),
            ..Saved::default()
        });
        assert_eq!(decode(b"", "a/b/c"), Err(InvalidFile::Foreign));
        assert_eq!(decode(b"{\"json\": 1}", "a/b/c"), Err(InvalidFile::Foreign));
        let error = decode(&file, "a/b/d").unwrap_err();
        assert_eq!(error.to_string(), "the snapshot is a/b/c's, not a/b/d's");
        let mut newer = file.clone();
        newer[11] = 2;
        assert_eq!(decode(&newer, "a/b/c"), Err(InvalidFile::Format(2)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_saved_comes_back(saved in any_saved()) {
            prop_assert_eq!(decode(&encode(&saved), &saved.owner), Ok(saved.clone()));
        }

        #[test]
        fn a_changed_or_cut_file_is_refused(saved in any_saved(), at: prop::sample::Index, by in 1u8.., cut: bool) {
            let mut file = encode(&saved);
            let at = at.index(file.len());
            if cut {
                file.truncate(at);
            } else {
                file[at] ^= by;
            }
            prop_assert!(decode(&file, &saved.owner).is_err());
        }

        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&FORMAT.to_be_bytes());
            file.extend_from_slice(&length(payload.len()).to_be_bytes());
            file.extend_from_slice(&checksum(&payload).to_be_bytes());
            file.extend_from_slice(&payload);
            let _ = decode(&file, "");
            let _ = decode(&payload, "");
        }
    }
}
