//! The content of `remote.json`.

use super::{FolderGuard, REMOTE_FILE};
use crate::ModelsError;
use crate::json::{MAX_CONFIG, parse_named};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;
use url::Url;

/// How a model server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteProtocol {
    /// `POST BASE_URL/chat/completions` with a picture.
    Openai,
    /// `POST BASE_URL` with a picture and a style; the answer has the caption.
    Caption,
}

impl RemoteProtocol {
    /// The name in `remote.json`.
    pub fn name(self) -> &'static str {
        match self {
            RemoteProtocol::Openai => "openai",
            RemoteProtocol::Caption => "caption",
        }
    }
}

/// What becomes of a caption without confidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutConfidence {
    /// It is written.
    Write,
    /// Calls return it; a watch does not write it without a review.
    #[default]
    Review,
    /// It is `uncertain`.
    Refuse,
}

/// Prices, for estimates. Any currency.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemotePrice {
    /// Of a million tokens of requests.
    pub input_per_million: f64,
    /// Of a million tokens of answers.
    pub output_per_million: f64,
    /// Of one request.
    pub per_request: f64,
}

/// The picture that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageLimits {
    /// Longest side, pixels.
    pub max_side: u32,
    /// JPEG quality, 1..=100.
    pub quality: u8,
}

impl Default for ImageLimits {
    fn default() -> Self {
        ImageLimits { max_side: 1024, quality: 85 }
    }
}

/// Names of the fields of [`RemoteProtocol::Caption`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionFields {
    /// Field of the request for the picture as a data URL; empty: it has none.
    pub image_url: String,
    /// Field of the request for the picture as plain base64; empty: it has none.
    pub image: String,
    /// Field of the request for the style's name; empty: it is not sent.
    pub style: String,
    /// Field of the request for the style's instruction; empty: it is not sent.
    pub instruction: String,
    /// Field of the request for the token limit; empty: it is not sent.
    pub max_tokens: String,
    /// Field of the answer, or a JSON pointer into it.
    pub caption: String,
    /// Field of the answer for a confidence from 0 to 1, or a JSON pointer into it.
    pub confidence: String,
}

impl Default for CaptionFields {
    fn default() -> Self {
        CaptionFields {
            image_url: "image_url".into(),
            image: String::new(),
            style: "style".into(),
            instruction: String::new(),
            max_tokens: "max_tokens".into(),
            caption: "caption".into(),
            confidence: "confidence".into(),
        }
    }
}

/// A remote model: how its server is reached, asked and paid.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteSettings {
    /// How it is asked.
    pub protocol: RemoteProtocol,
    /// http or https, without user and password.
    pub base_url: Url,
    /// The model's name at the server.
    pub model: Option<String>,
    /// File with the key, inside of the folder.
    pub api_key_file: Option<String>,
    /// File with the certificate authorities to trust instead of the system's, inside of the
    /// folder.
    pub ca_file: Option<String>,
    /// Most requests at the same time, 1..=256.
    pub concurrency: u32,
    /// Most requests in any minute.
    pub requests_per_minute: Option<u32>,
    /// Most requests of watches in a day (UTC).
    pub daily_requests: Option<u64>,
    /// Most tokens of watches in a day (UTC), requests and answers together.
    pub daily_tokens: Option<u64>,
    /// Prices, for estimates.
    pub price: RemotePrice,
    /// The picture that is sent.
    pub image: ImageLimits,
    /// Limit of one request.
    pub timeout: Duration,
    /// Whether words of the row may be sent.
    pub send_context: bool,
    /// What becomes of a caption without confidence.
    pub without_confidence: WithoutConfidence,
    /// Confidence below which captions are uncertain, 0..=1.
    pub min_confidence: Option<f32>,
    /// Names of fields, for [`RemoteProtocol::Caption`].
    pub fields: CaptionFields,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoteFile {
    protocol: RemoteProtocol,
    base_url: String,
    model: Option<String>,
    api_key_file: Option<String>,
    ca_file: Option<String>,
    #[serde(default = "default_concurrency")]
    concurrency: u32,
    requests_per_minute: Option<u32>,
    daily_requests: Option<u64>,
    daily_tokens: Option<u64>,
    #[serde(default)]
    price: RemotePrice,
    #[serde(default)]
    image: ImageLimits,
    #[serde(default = "default_timeout")]
    timeout: f64,
    #[serde(default)]
    send_context: bool,
    #[serde(default)]
    without_confidence: WithoutConfidence,
    min_confidence: Option<f32>,
    fields: Option<CaptionFields>,
}

/// As many as the slots of a common server.
fn default_concurrency() -> u32 {
    16
}

/// Seconds. A large model on a busy server takes tens of seconds.
fn default_timeout() -> f64 {
    120.0
}

/// Most requests at the same time.
const MOST_CONCURRENCY: u32 = 256;
/// Longest timeout, seconds.
const LONGEST_TIMEOUT: f64 = 3600.0;
/// Shortest and longest side of a picture, pixels.
const SIDES: std::ops::RangeInclusive<u32> = 64..=8192;

impl RemoteSettings {
    /// Reads `remote.json` of a folder that has passed the check of its owners, and checks the
    /// files that it names without reading them.
    ///
    /// # Errors
    /// [`ModelsError`] that names the file and what is wrong with it. It never contains a key.
    pub fn of_folder(guard: &FolderGuard) -> Result<RemoteSettings, ModelsError> {
        let path = guard.folder().join(REMOTE_FILE);
        let settings = RemoteSettings::parse(&guard.read(REMOTE_FILE, MAX_CONFIG)?, &path)?;
        if let Some(name) = &settings.api_key_file {
            guard.check_secret(name, "api_key_file")?;
        }
        Ok(settings)
    }

    /// Reads the text of a `remote.json`; `path` is used for errors.
    ///
    /// # Errors
    /// [`ModelsError::Content`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<RemoteSettings, ModelsError> {
        let wrong = |reason: String| ModelsError::content(path, reason);
        let file: RemoteFile = parse_named(bytes).map_err(wrong)?;
        let range = |name: &str, fits: bool, range: String| match fits {
            true => Ok(()),
            false => Err(wrong(format!("\"{name}\" must be {range}"))),
        };
        range(
            "concurrency",
            (1..=MOST_CONCURRENCY).contains(&file.concurrency),
            format!("1 to {MOST_CONCURRENCY}"),
        )?;
        let limits = [
            ("requests_per_minute", file.requests_per_minute.map(u64::from)),
            ("daily_requests", file.daily_requests),
            ("daily_tokens", file.daily_tokens),
        ];
        for (name, limit) in limits {
            range(name, limit != Some(0), "at least 1".into())?;
        }
        range(
            "timeout",
            file.timeout >= 0.1 && file.timeout <= LONGEST_TIMEOUT,
            format!("0.1 to {LONGEST_TIMEOUT} seconds"),
        )?;
        range(
            "max_side",
            SIDES.contains(&file.image.max_side),
            format!("{} to {} pixels", SIDES.start(), SIDES.end()),
        )?;
        range("quality", (1..=100).contains(&file.image.quality), "1 to 100".into())?;
        range(
            "min_confidence",
            file.min_confidence.is_none_or(|c| (0.0..=1.0).contains(&c)),
            "0 to 1".into(),
        )?;
        let RemotePrice { input_per_million, output_per_million, per_request } = file.price;
        let is_price = |price: f64| price.is_finite() && price >= 0.0;
        range(
            "price",
            [input_per_million, output_per_million, per_request].into_iter().all(is_price),
            "at least 0".into(),
        )?;
        if file.protocol == RemoteProtocol::Openai && file.model.is_none() {
            return Err(wrong("protocol \"openai\" needs \"model\"".into()));
        }
        if file.protocol == RemoteProtocol::Openai && file.fields.is_some() {
            return Err(wrong("\"fields\" belongs to protocol \"caption\"".into()));
        }
        let fields = file.fields.unwrap_or_default();
        if fields.image.is_empty() == fields.image_url.is_empty() {
            return Err(wrong(
                "\"fields\" must name one of \"image_url\" and \"image\", and leave the other \
                 empty"
                    .into(),
            ));
        }
        if fields.caption.is_empty() {
            return Err(wrong("\"fields\" must name \"caption\"".into()));
        }
        Ok(RemoteSettings {
            protocol: file.protocol,
            base_url: base_url(&file.base_url).map_err(wrong)?,
            model: file.model,
            api_key_file: file.api_key_file,
            ca_file: file.ca_file,
            concurrency: file.concurrency,
            requests_per_minute: file.requests_per_minute,
            daily_requests: file.daily_requests,
            daily_tokens: file.daily_tokens,
            price: file.price,
            image: file.image,
            timeout: Duration::from_secs_f64(file.timeout),
            send_context: file.send_context,
            without_confidence: file.without_confidence,
            min_confidence: file.min_confidence,
            fields,
        })
    }

    /// The address that requests are sent to.
    pub fn endpoint(&self) -> Url {
        let mut url = self.base_url.clone();
        if self.protocol == RemoteProtocol::Openai {
            let path = format!("{}/chat/completions", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        url
    }

    /// The server as `host:port`.
    pub fn server(&self) -> String {
        let host = self.base_url.host_str().unwrap_or_default();
        format!("{host}:{}", self.base_url.port_or_known_default().unwrap_or(0))
    }

    /// SHA-256 over everything that decides the captions, lower-case hex. Limits, prices and keys
    /// do not.
    pub fn digest(&self) -> String {
        let decisive = serde_json::json!({
            "protocol": self.protocol,
            "endpoint": self.endpoint().as_str(),
            "model": self.model,
            "image": self.image,
            "send_context": self.send_context,
            "fields": self.fields,
        });
        format!("{:x}", Sha256::digest(decisive.to_string().as_bytes()))
    }
}

/// Errors do not repeat the address, which may contain a password.
fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("\"base_url\" is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("\"base_url\" must begin with http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "\"base_url\" must contain no user and no password; use \"api_key_file\"".into()
        );
    }
    if url.fragment().is_some() {
        return Err("\"base_url\" must have no fragment (#)".into());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<RemoteSettings, String> {
        RemoteSettings::parse(json.as_bytes(), Path::new("remote.json")).map_err(|e| e.to_string())
    }

    const LEAST: &str = r#"{"protocol": "openai", "base_url": "http://gpu:8000/v1", "model": "m"}"#;

    /// [`LEAST`] with further fields.
    fn with(fields: &str) -> Result<RemoteSettings, String> {
        parse(&format!("{}, {fields}}}", &LEAST[..LEAST.len() - 1]))
    }

    #[test]
    fn three_fields_are_enough() {
        let settings = parse(LEAST).unwrap();
        assert_eq!(settings.endpoint().as_str(), "http://gpu:8000/v1/chat/completions");
        assert_eq!(settings.server(), "gpu:8000");
        assert_eq!((settings.concurrency, settings.timeout), (16, Duration::from_secs(120)));
        assert_eq!((settings.image.max_side, settings.image.quality), (1024, 85));
        assert_eq!(settings.without_confidence, WithoutConfidence::Review);
        assert!(!settings.send_context);
        let caption = parse(r#"{"protocol": "caption", "base_url": "https://h/v1/caption?v=2"}"#);
        let caption = caption.unwrap();
        assert_eq!(caption.endpoint().as_str(), "https://h/v1/caption?v=2");
        assert_eq!(caption.server(), "h:443");
    }

    #[test]
    fn errors_of_remote_json_name_their_cause() {
        for (fields, cause) in [
            (r#""concurrency": 0"#, "\"concurrency\" must be 1 to 256"),
            (r#""daily_tokens": 0"#, "\"daily_tokens\" must be at least 1"),
            (r#""timeout": 0"#, "\"timeout\""),
            (r#""image": {"max_side": 10}"#, "\"max_side\" must be 64 to 8192 pixels"),
            (r#""image": {"quality": 0}"#, "\"quality\""),
            (r#""price": {"per_request": -1}"#, "\"price\""),
            (r#""min_confidence": 2"#, "\"min_confidence\""),
            (r#""without_confidence": "guess""#, "without_confidence: unknown variant `guess`"),
            (r#""api_key": "sk-1""#, "api_key"),
            (r#""fields": {}"#, "\"fields\" belongs to"),
        ] {
            let error = with(fields).unwrap_err();
            assert!(error.starts_with("remote.json: ") && error.contains(cause), "{error}");
            assert!(!error.contains("sk-1"), "{error}");
        }
        for (json, cause) in [
            ("[", "line 1"),
            (r#"{"base_url": "http://h", "model": "m"}"#, "protocol"),
            (r#"{"protocol": "openai", "base_url": "http://h"}"#, "needs \"model\""),
            (r#"{"protocol": "openai", "base_url": "ftp://h", "model": "m"}"#, "http://"),
            (r#"{"protocol": "caption", "base_url": "h"}"#, "\"base_url\" is no URL"),
            (r#"{"protocol": "caption", "base_url": "http://u:secret@h"}"#, "no password"),
            (
                r#"{"protocol": "caption", "base_url": "http://h", "fields": {"image": "i"}}"#,
                "one of \"image_url\" and \"image\"",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(cause) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_digest_changes_with_what_decides_texts() {
        let digest = |settings: Result<RemoteSettings, String>| settings.unwrap().digest();
        let plain = digest(parse(LEAST));
        assert_eq!(plain.len(), 64);
        assert_eq!(plain, digest(with(r#""concurrency": 3, "daily_requests": 9"#)));
        assert_ne!(plain, digest(with(r#""image": {"max_side": 512}"#)));
        assert_ne!(plain, digest(with(r#""send_context": true"#)));
        assert_ne!(plain, digest(parse(&LEAST.replace("\"m\"", "\"n\""))));
    }
}
