//! Signatures by the Standard Webhooks scheme, version 1 with a shared secret.
//!
//! In: secrets, an id, a time, a body. Out: the header `webhook-signature`, one signature for each
//! secret, so that a receiver may know the old or the new one while it is changed. Facts:
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::Sha256;

/// What each secret begins with; the rest is base64.
const PREFIX: &str = "whsec_";
/// How long a key is, in bytes, by the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs with all secrets.
#[derive(Clone)]
pub(super) struct Signer {
    keys: Vec<SecretSlice<u8>>,
}

impl Signer {
    /// Reads secrets that are separated by blanks; the error says why they are none.
    pub(super) fn new(secrets: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for secret in secrets.split_whitespace() {
            let Some(secret) = secret.strip_prefix(PREFIX) else {
                return Err(format!("each secret begins with {PREFIX}"));
            };
            let Ok(key) = STANDARD.decode(secret) else {
                return Err(format!("what follows {PREFIX} is not base64"));
            };
            if !KEY_BYTES.contains(&key.len()) {
                let (least, most) = (KEY_BYTES.start(), KEY_BYTES.end());
                return Err(format!(
                    "a secret has {least} to {most} bytes behind its base64"
                ));
            }
            keys.push(SecretSlice::from(key));
        }
        Ok(Self { keys })
    }

    /// The value of `webhook-signature` for a message that is sent at `timestamp` (Unix seconds).
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures: Vec<String> = self
            .keys
            .iter()
            .map(|key| {
                #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
                let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret()).expect("a key");
                mac.update(format!("{id}.{timestamp}.").as_bytes());
                mac.update(body);
                format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
            })
            .collect();
        signatures.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The vector of the reference implementations.
    #[test]
    fn the_reference_vector_is_met() {
        let signature = Signer::new(SECRET).unwrap().sign(ID, 1_614_265_330, BODY);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_secret_signs() {
        let other = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=";
        let both = Signer::new(&format!("{SECRET} {other}")).unwrap();
        let alone = |secret| Signer::new(secret).unwrap().sign(ID, 7, BODY);
        assert_eq!(
            both.sign(ID, 7, BODY),
            format!("{} {}", alone(SECRET), alone(other))
        );
        assert_ne!(alone(SECRET), alone(other));
    }

    #[test]
    fn no_secret_is_told() {
        for wrong in ["hunter2", "whsec_hunter2!", "whsec_aHVudGVyMg=="] {
            let error = Signer::new(wrong).err().expect(wrong);
            assert!(
                !error.contains("hunter2") && !error.contains("aHVud"),
                "{error}"
            );
        }
    }
}
