//! The secret that both sides hold, and the proofs made from it.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::error::{AccessError, Result};

/// Bytes of a token, of a nonce and of a proof.
pub const SECRET_BYTES: usize = 32;

/// A 256-bit shared secret. It is shown inside TLS only; elsewhere a peer proves that it holds it by an HMAC-SHA-256
/// (RFC 2104) over both sides' nonces. All comparisons take the same time wherever the bytes differ.
#[derive(Clone)]
pub struct Token([u8; SECRET_BYTES]);

impl Token {
    /// Draws a token from the system's random source.
    ///
    /// # Errors
    /// Random when the system has none.
    pub fn generate() -> Result<Self> {
        Ok(Self(random()?))
    }

    /// Takes the bytes of a token.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// Writes the token as 64 hexadecimal digits, to be handed to a peer.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `shown` is this token as [`Token::to_hex`] writes it.
    #[must_use]
    pub fn is(&self, shown: &str) -> bool {
        shown.parse::<Self>().is_ok_and(|shown| shown == *self)
    }

    /// Makes the proof of `label` and `parts` under this token.
    #[must_use]
    pub fn proof(&self, label: &str, parts: &[&[u8]]) -> [u8; SECRET_BYTES] {
        self.mac(label, parts).finalize().into_bytes().into()
    }

    /// Checks a proof in constant time.
    #[must_use]
    pub fn verify(&self, label: &str, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(label, parts).verify_slice(proof).is_ok()
    }

    /// Derives a secret of one session.
    #[must_use]
    pub fn derive(&self, label: &str, parts: &[&[u8]]) -> Self {
        Self(self.proof(label, parts))
    }

    fn mac(&self, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        // lengths go in, so that no two lists of parts have the same bytes
        for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.verify("equal", &[], &other.proof("equal", &[]))
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(hex: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!(
                "a token is {} hexadecimal digits, this has {} bytes",
                SECRET_BYTES * 2,
                hex.len()
            )
        };
        if hex.len() != SECRET_BYTES * 2 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; SECRET_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// Draws random bytes.
///
/// # Errors
/// Random when the system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| AccessError::Random(e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 does not apply to our length-prefixed parts, so the vector is computed here by hand from the hash.
    #[test]
    fn proofs_are_hmac_sha256_over_length_prefixed_parts() {
        let token = Token::from_bytes([3; 32]);
        let mut message = Vec::new();
        for part in [b"label".as_slice(), b"ab", b""] {
            message.extend((part.len() as u64).to_le_bytes());
            message.extend(part);
        }
        let pad = |byte: u8| -> Vec<u8> { (0..64).map(|i| byte ^ if i < 32 { 3 } else { 0 }).collect() };
        use sha2::Digest as _;
        let inner = Sha256::digest([pad(0x36), message].concat());
        let expected = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
        assert_eq!(token.proof("label", &[b"ab", b""])[..], expected[..]);
    }

    #[test]
    fn a_proof_holds_for_its_token_label_and_parts_only() {
        let (token, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        let proof = token.proof("client", &[b"ab", b"c"]);
        assert!(token.verify("client", &[b"ab", b"c"], &proof));
        assert!(!token.verify("server", &[b"ab", b"c"], &proof));
        assert!(!token.verify("client", &[b"a", b"bc"], &proof));
        assert!(!token.verify("client", &[b"ab", b"c"], &proof[..31]));
        assert!(!other.verify("client", &[b"ab", b"c"], &proof));
    }

    #[test]
    fn hex_round_trips_and_is_not_in_debug() {
        let token = Token::generate().unwrap();
        assert_eq!(token.to_hex().parse::<Token>().unwrap(), token);
        assert!("zz".repeat(32).parse::<Token>().is_err());
        assert!("00".parse::<Token>().unwrap_err().contains("64 hexadecimal digits"));
        assert!("é".repeat(32).parse::<Token>().is_err());
        assert!(!format!("{token:?}").contains(&token.to_hex()[..8]));
        assert!(token.is(&token.to_hex()) && !token.is(&Token::generate().unwrap().to_hex()) && !token.is(""));
    }
}
