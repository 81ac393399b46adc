//! Sealing: AES-256-GCM under keys derived from the pre-shared one, a different key for each node in each epoch.
//!
//! A nonce is a datagram's kind, stream and seq, so each is used for one datagram in an epoch. A batch sent again has
//! the same nonce and the same bytes. The header is authenticated with the body. Without a key nothing is encrypted.

use std::fmt;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::ctflow::limits::KEYS_MAX;
use crate::ctflow::wire::{HEADER_BYTES, Header};
use crate::model::host::Cipher;
use crate::model::time::Epoch;

/// The bytes that sealing appends to a body.
pub const TAG_BYTES: usize = 16;

const SALT: &[u8] = b"ctflow replication 1";

/// The pre-shared key, 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of these bits.
    #[must_use]
    pub fn new(bits: [u8; 32]) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// Derives the key of `node` in `epoch`; `None` only if the library refuses lengths that are constant here.
fn derive(key: &Key, node: u64, epoch: Epoch) -> Option<LessSafeKey> {
    let info = [node.to_be_bytes(), epoch.0.to_be_bytes()];
    let info = info.each_ref().map(<[u8; 8]>::as_slice);
    let mut bits = [0; 32];
    Salt::new(HKDF_SHA256, SALT).extract(&key.0).expand(&info, Bytes32).ok()?.fill(&mut bits).ok()?;
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bits).ok()?))
}

fn nonce(header: &Header) -> Nonce {
    let mut bytes = [0; 12];
    let (front, seq) = bytes.split_at_mut(4);
    front.copy_from_slice(&(u32::from(header.kind.number()) << 24 | u32::from(header.stream)).to_be_bytes());
    seq.copy_from_slice(&header.seq.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Why a datagram was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// It is in clear and this node has a key, or it is sealed and this node has none.
    Cipher,
    /// It was sealed with another key, or was changed in transit.
    NotAuthentic,
}

/// Seals this node's datagrams and opens those of other nodes.
pub(crate) struct Sealer {
    secret: Option<Secret>,
}

struct Secret {
    shared: Key,
    /// The cached keys: node, epoch, key; the newest at the end.
    derived: Vec<(u64, Epoch, Arc<LessSafeKey>)>,
}

impl Sealer {
    /// Creates a sealer with keys derived from `key`; without one, all datagrams are in clear.
    pub(crate) fn new(key: Option<Key>) -> Self {
        Self { secret: key.map(|shared| Secret { shared, derived: Vec::new() }) }
    }

    /// Whether datagrams are sealed or in clear, in both directions.
    pub(crate) fn cipher(&self) -> Cipher {
        if self.secret.is_some() { Cipher::Sealed } else { Cipher::Clear }
    }

    /// Writes `header` to the datagram's first 32 bytes and seals the body after them. `None` if the datagram has no
    /// room for a header or the library fails; it must not be sent then.
    pub(crate) fn seal(&mut self, header: &Header, datagram: &mut Vec<u8>) -> Option<()> {
        let (front, body) = datagram.split_at_mut_checked(HEADER_BYTES)?;
        front.copy_from_slice(&header.to_wire());
        if let Some(secret) = &mut self.secret {
            let key = secret.find_or_derive_key(header)?;
            let tag = key.seal_in_place_separate_tag(nonce(header), Aad::from(&*front), body).ok()?;
            secret.cache_key(header, key);
            datagram.extend_from_slice(tag.as_ref());
        }
        Some(())
    }

    /// Decrypts the body of a datagram with this header in place, and returns it.
    pub(crate) fn open<'a>(&mut self, header: &Header, datagram: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        if header.cipher != self.cipher() {
            return Err(OpenError::Cipher);
        }
        let (front, body) = datagram.split_at_mut_checked(HEADER_BYTES).ok_or(OpenError::NotAuthentic)?;
        let Some(secret) = &mut self.secret else { return Ok(body) };
        let key = secret.find_or_derive_key(header).ok_or(OpenError::NotAuthentic)?;
        let opened = key.open_in_place(nonce(header), Aad::from(&*front), body).map_err(|_| OpenError::NotAuthentic);
        // Only an authentic datagram's key is cached: anybody can write a header, and made-up ones would evict the
        // others.
        if opened.is_ok() {
            secret.cache_key(header, key);
        }
        opened
    }
}

impl Secret {
    /// The key of the header's node and epoch, from the cache or derived now.
    fn find_or_derive_key(&self, header: &Header) -> Option<Arc<LessSafeKey>> {
        match self.cached_key(header) {
            Some(key) => Some(Arc::clone(key)),
            None => derive(&self.shared, header.node, header.epoch).map(Arc::new),
        }
    }

    /// The key of the header's node and epoch, if it is cached.
    fn cached_key(&self, header: &Header) -> Option<&Arc<LessSafeKey>> {
        let is = |(node, epoch, _): &&(u64, Epoch, _)| (*node, *epoch) == (header.node, header.epoch);
        self.derived.iter().find(is).map(|(.., key)| key)
    }

    /// Caches the key of the header's node and epoch; drops the one cached first if the cache is full.
    fn cache_key(&mut self, header: &Header, key: Arc<LessSafeKey>) {
        if self.cached_key(header).is_some() {
            return;
        }
        if self.derived.len() >= KEYS_MAX {
            self.derived.remove(0);
        }
        self.derived.push((header.node, header.epoch, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctflow::wire::Kind;

    fn header(sealer: &Sealer) -> Header {
        Header { kind: Kind::Control, cipher: sealer.cipher(), stream: 3, node: 1, epoch: Epoch(2), seq: 9 }
    }

    fn sealed(sealer: &mut Sealer) -> Vec<u8> {
        let mut datagram = vec![0; HEADER_BYTES];
        datagram.extend_from_slice(b"what is sent");
        sealer.seal(&header(sealer), &mut datagram).unwrap();
        datagram
    }

    #[test]
    fn a_sealed_datagram_opens_under_the_same_key_only() {
        let mut sealer = Sealer::new(Some(Key::new([7; 32])));
        let datagram = sealed(&mut sealer);
        let header = Header::parse(&datagram).unwrap();
        assert_eq!(datagram.len(), HEADER_BYTES + 12 + TAG_BYTES);
        assert_eq!(datagram, sealed(&mut sealer), "sent again, it is the same bytes");
        assert_eq!(sealer.open(&header, &mut datagram.clone()).unwrap(), b"what is sent");
        let mut other = Sealer::new(Some(Key::new([8; 32])));
        assert_eq!(other.open(&header, &mut datagram.clone()), Err(OpenError::NotAuthentic));
        let mut clear = Sealer::new(None);
        assert_eq!(clear.open(&header, &mut datagram.clone()), Err(OpenError::Cipher));
    }

    #[test]
    fn no_bit_of_a_sealed_datagram_can_be_changed() {
        let mut sealer = Sealer::new(Some(Key::new([7; 32])));
        let datagram = sealed(&mut sealer);
        for at in 0..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 1;
            if let Ok(header) = Header::parse(&damaged) {
                assert!(sealer.open(&header, &mut damaged).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn cached_keys_are_bounded_and_derived_again() {
        let mut sealer = Sealer::new(Some(Key::new([7; 32])));
        let datagram = sealed(&mut sealer);
        for seq in 0..2 * KEYS_MAX as u64 {
            let other = Header { node: seq, ..header(&sealer) };
            sealer.seal(&other, &mut vec![0; HEADER_BYTES]).unwrap();
        }
        assert!(sealer.secret.as_ref().unwrap().derived.len() <= KEYS_MAX);
        assert!(sealer.open(&Header::parse(&datagram).unwrap(), &mut datagram.clone()).is_ok());
    }

    #[test]
    fn without_a_key_a_datagram_is_header_and_clear_body() {
        let mut sealer = Sealer::new(None);
        let mut datagram = sealed(&mut sealer);
        let header = Header::parse(&datagram).unwrap();
        assert_eq!(sealer.open(&header, &mut datagram).unwrap(), b"what is sent");
    }
}
