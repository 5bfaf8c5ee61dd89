//! cosign's older format: a layer of the image `sha256-….sig`, a payload of JSON with its signature in annotations. In:
//! one of them, and whom it may be by; out: nothing, or why it does not count. Pure.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use sigstore_verify::types::{Bundle, DerCertificate, SignatureBytes};

use super::{
    judge::{Refused, has_signed, keyless},
    requirement::SignatureRequirement,
};

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const LOG_ENTRY: &str = "dev.sigstore.cosign/bundle";
const TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";
const TYPE: &str = "cosign container image signature";

/// A payload, and what its layer's annotations say.
#[derive(Clone, Debug)]
pub(super) struct SimpleSignature {
    pub(super) payload: Vec<u8>,
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// What a log has promised: `dev.sigstore.cosign/bundle`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LogEntry {
    signed_entry_timestamp: String,
    payload: LogPayload,
}

#[derive(Deserialize)]
struct LogPayload {
    body: String,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logIndex")]
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

#[derive(Deserialize)]
struct LogBody {
    kind: String,
    #[serde(rename = "apiVersion")]
    version: String,
}

#[derive(Deserialize)]
struct Timestamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    signed: String,
}

impl SimpleSignature {
    /// Whether one whom the requirement names has signed one of these digests.
    pub(super) fn verify(&self, requirement: &SignatureRequirement, digests: &[&str]) -> Result<(), Refused> {
        let payload: Payload = serde_json::from_slice(&self.payload).map_err(|_| Refused::Unreadable)?;
        let signature = self.annotations.get(SIGNATURE).ok_or(Refused::Unreadable)?;
        let signature = SignatureBytes::from_base64(signature).map_err(|_| Refused::Unreadable)?;
        if let Some(certificate) = self.annotations.get(CERTIFICATE) {
            let required = requirement.keyless().ok_or(Refused::OtherSigner)?;
            keyless(required, &self.as_bundle(certificate, &signature)?, self.payload.as_slice())?;
        } else if !requirement.keys().iter().any(|key| has_signed(key, &self.payload, &signature)) {
            return Err(Refused::OtherSigner);
        }
        // What the payload says counts only now that it is known whose it is.
        if payload.critical.kind != TYPE {
            return Err(Refused::OtherStatement);
        }
        if !digests.contains(&payload.critical.image.digest.as_str()) {
            return Err(Refused::OtherImage);
        }
        Ok(())
    }

    /// The same as a bundle: the certificate, the log's promise and the timestamp are verified as one.
    fn as_bundle(&self, certificate: &str, signature: &SignatureBytes) -> Result<Bundle, Refused> {
        let unreadable = |_| Refused::Unreadable;
        let chain = self.annotations.get(CHAIN).map(String::as_str).unwrap_or_default();
        let certificates = pem_blocks(certificate).chain(pem_blocks(chain)).map(|pem| {
            let certificate = DerCertificate::from_pem(pem).map_err(|_| Refused::Unreadable)?;
            Ok(json!({ "rawBytes": certificate.to_base64() }))
        });
        let mut material = json!({
            "x509CertificateChain": { "certificates": certificates.collect::<Result<Vec<_>, Refused>>()? },
        });
        // A log has given its promise in place of a proof: so it was in the first version of bundles, and in no later one.
        let mut version = "0.2";
        if let Some(entry) = self.annotations.get(LOG_ENTRY) {
            version = "0.1";
            let LogEntry { signed_entry_timestamp, payload } = serde_json::from_str(entry).map_err(unreadable)?;
            let body = STANDARD.decode(&payload.body).map_err(|_| Refused::Unreadable)?;
            let body: LogBody = serde_json::from_slice(&body).map_err(unreadable)?;
            let log_id = hex::decode(&payload.log_id).map_err(|_| Refused::Unreadable)?;
            material["tlogEntries"] = json!([{
                "logIndex": payload.log_index.to_string(),
                "logId": { "keyId": STANDARD.encode(log_id) },
                "kindVersion": { "kind": body.kind, "version": body.version },
                "integratedTime": payload.integrated_time.to_string(),
                "inclusionPromise": { "signedEntryTimestamp": signed_entry_timestamp },
                "canonicalizedBody": payload.body,
            }]);
        }
        if let Some(timestamp) = self.annotations.get(TIMESTAMP) {
            let timestamp: Timestamp = serde_json::from_str(timestamp).map_err(unreadable)?;
            let signed = json!([{ "signedTimestamp": timestamp.signed }]);
            material["timestampVerificationData"] = json!({ "rfc3161Timestamps": signed });
        }
        let bundle = json!({
            "mediaType": format!("application/vnd.dev.sigstore.bundle+json;version={version}"),
            "verificationMaterial": material,
            "messageSignature": { "signature": signature.to_base64() },
        });
        serde_json::from_value(bundle).map_err(unreadable)
    }
}

fn pem_blocks(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter(|block| block.contains(END))
}
