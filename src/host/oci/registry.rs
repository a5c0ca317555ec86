//! An image of a registry, over the distribution API: index, manifest, layers, each checked by its digest while it comes.
//! Gets leave as anybody does who has no account; knows no passwords.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::flow::place::Reference;
use crate::host::fetch::{FetchError, Wanted, fetch};
use crate::host::fs::{Fs, FsError};
use crate::host::oci::layer::{self, LayerError, Taken};
use crate::host::oci::manifest::{self, MANIFESTS, Manifest};
use crate::host::oci::{Found, LAYER_LIMIT, OciError, Sought};
use crate::host::tar_stream::plain;

/// No manifest, index or token is longer.
const JSON_LIMIT: u64 = 4 << 20;
/// Leave that ends sooner was none.
const SHORTEST_LEAVE: Duration = Duration::from_secs(10);

pub(super) struct Registry<'a> {
    fs: &'a Fs,
    reference: &'a Reference,
    folder: &'a Path,
    deadline: Instant,
    /// `Bearer` and a token, since when.
    leave: Option<(String, Instant)>,
}

/// What a token server answers.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl<'a> Registry<'a> {
    pub(super) fn new(fs: &'a Fs, reference: &'a Reference, folder: &'a Path, deadline: Instant) -> Self {
        Self { fs, reference, folder, deadline, leave: None }
    }

    pub(super) async fn pull(mut self, sought: &Sought, arch: &str) -> Result<Found, OciError> {
        let version = self.reference.version.clone();
        let mut manifest = self.manifest(&version).await?;
        if !manifest.manifests.is_empty() {
            let digest =
                manifest::for_platform(&manifest, arch).map_err(|why| self.unfit(why))?.digest.clone();
            manifest = self.manifest(&digest).await?;
        }
        if manifest.layers.is_empty() {
            return Err(self.unfit(
                "has no layers that are understood; use an image of OCI's or Docker's second form".into(),
            ));
        }
        let (mut has_tarball, mut sums) = (false, None);
        // From the top: what is in a higher layer hides what is in a lower one.
        for layer in manifest.layers.iter().rev() {
            if has_tarball && sums.is_some() {
                break;
            }
            let digits = manifest::sha256_of(&layer.digest).map_err(|why| self.unfit(why))?;
            let file = self.folder.join(format!("{digits}.layer"));
            let url = self.url("blobs", &layer.digest);
            let limit = if layer.size == 0 { LAYER_LIMIT } else { layer.size.min(LAYER_LIMIT) };
            self.fetch(&url, &[], Some(digits), limit, &file).await?;
            let name = if has_tarball { String::new() } else { sought.tarball.clone() };
            let taken = self.take(&file, Sought { tarball: name, ..sought.clone() }).await?;
            has_tarball |= taken.has_tarball;
            sums = sums.or(taken.sums.map(|text| (sought.sums.clone(), text)));
        }
        if !has_tarball {
            return Err(
                self.unfit(format!("has no {} in it; use system-agent-installer-rke2", sought.tarball))
            );
        }
        Ok(Found { tarball: sought.folder.join(&sought.tarball), sums })
    }

    async fn manifest(&mut self, version: &str) -> Result<Manifest, OciError> {
        let digits = if version.contains(':') {
            Some(manifest::sha256_of(version).map_err(|why| self.unfit(why))?)
        } else {
            None
        };
        let file = self.folder.join("manifest.json");
        let accept = [("accept", MANIFESTS.to_owned())];
        self.fetch(&self.url("manifests", version), &accept, digits, JSON_LIMIT, &file).await?;
        manifest::read("manifest", &self.read_away(&file)?).map_err(|why| self.unfit(why))
    }

    /// A layer's files; the layer itself is not needed any more.
    async fn take(&self, file: &Path, sought: Sought) -> Result<Taken, OciError> {
        let file = file.to_path_buf();
        let taken = self.fs.blocking(move |fs| {
            let io = |action| FsError::on(action, &file);
            let mut input = fs.effects().open(&file).map_err(io("open")).map_err(LayerError::Io)?;
            let mut content = plain(&mut *input).map_err(io("read")).map_err(LayerError::Io)?;
            let taken = layer::take(fs, &mut *content, &sought)?;
            fs.remove_if_there(&file).map_err(io("remove")).map_err(LayerError::Io)?;
            Ok(taken)
        });
        taken.await.map_err(|error| match error {
            LayerError::Unfit(why) => self.unfit(why),
            LayerError::Io(source) => self.io(source),
        })
    }

    /// Fetches, and gets leave where the registry wants that.
    async fn fetch(
        &mut self,
        url: &str,
        headers: &[(&'static str, String)],
        sha256: Option<&str>,
        limit: u64,
        dest: &Path,
    ) -> Result<(), OciError> {
        loop {
            let mut headers = headers.to_vec();
            headers.extend(self.leave.iter().map(|(leave, _)| ("authorization", leave.clone())));
            let wanted = Wanted { url, headers: &headers, sha256, limit, spare: 0 };
            match fetch(self.fs, &wanted, dest, self.deadline).await {
                Ok(_bytes) => return Ok(()),
                Err(FetchError::Refused { status: 401, challenge, url }) => {
                    let is_fresh =
                        self.leave.as_ref().is_some_and(|(_, since)| since.elapsed() < SHORTEST_LEAVE);
                    let Some(ask) = token_url(&challenge, self.reference.scheme).filter(|_| !is_fresh) else {
                        let source = FetchError::Refused { status: 401, challenge, url };
                        return Err(self.did_not_come(source));
                    };
                    self.leave = Some((self.ask_leave(&ask).await?, Instant::now()));
                }
                Err(source) => return Err(self.did_not_come(source)),
            }
        }
    }

    async fn ask_leave(&self, url: &str) -> Result<String, OciError> {
        let file = self.folder.join("leave.json");
        let wanted = Wanted { url, headers: &[], sha256: None, limit: JSON_LIMIT, spare: 0 };
        fetch(self.fs, &wanted, &file, self.deadline).await.map_err(|source| self.did_not_come(source))?;
        let token: Token =
            manifest::read("token server", &self.read_away(&file)?).map_err(|why| self.unfit(why))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        Ok(format!("Bearer {token}"))
    }

    fn read_away(&self, file: &Path) -> Result<Vec<u8>, OciError> {
        let mut text = Vec::new();
        let mut read = || {
            let mut input = self.fs.effects().open(file)?;
            input.read_to_end(&mut text)?;
            self.fs.remove_if_there(file)
        };
        read().map_err(FsError::on("read", file)).map_err(|source| self.io(source))?;
        Ok(text)
    }

    fn url(&self, what: &str, version: &str) -> String {
        let Reference { scheme, registry, repository, .. } = self.reference;
        format!("{scheme}://{registry}/v2/{repository}/{what}/{version}")
    }

    fn unfit(&self, why: String) -> OciError {
        OciError::Unfit { image: self.reference.to_string(), why }
    }

    fn io(&self, source: FsError) -> OciError {
        OciError::Io { image: self.reference.to_string(), source }
    }

    fn did_not_come(&self, source: FetchError) -> OciError {
        OciError::Fetch { image: self.reference.to_string(), source }
    }
}

/// Where leave is to be asked for: `Bearer realm="https://…",service="…",scope="…"`.
/// Not in the open where the registry itself is not.
fn token_url(challenge: &str, scheme: &str) -> Option<String> {
    let (kind, given) = challenge.split_once(' ')?;
    if !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut values = std::collections::BTreeMap::new();
    let mut rest = given;
    while let Some((name, value)) = rest.split_once('=') {
        let value = value.strip_prefix('"')?;
        let (value, after) = value.split_once('"')?;
        values.insert(name.trim_matches([' ', ',']).to_ascii_lowercase(), value);
        rest = after;
    }
    let is_safe =
        |realm: &&&str| realm.starts_with("https://") || (scheme == "http" && realm.starts_with("http://"));
    let realm = values.get("realm").filter(is_safe)?;
    let mut url = (*realm).to_owned();
    for name in ["service", "scope"] {
        if let Some(value) = values.get(name) {
            let sign = if url.contains('?') { '&' } else { '?' };
            url = format!("{url}{sign}{name}={}", escaped(value));
        }
    }
    Some(url)
}

fn escaped(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leave_is_asked_for_where_the_registry_says() {
        for (challenge, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="reg.example",scope="repository:a/b:pull,push""#,
                Some("https://auth.example/token?service=reg.example&scope=repository:a/b:pull,push"),
            ),
            (
                r#"bearer realm="http://127.0.0.1:1/t?x=1", service="a b&c""#,
                Some("http://127.0.0.1:1/t?x=1&service=a%20b%26c"),
            ),
            (r#"Basic realm="x""#, None),
            (r#"Bearer realm="file:///etc/shadow""#, None),
            ("Bearer", None),
            ("Bearer realm=", None),
        ] {
            let in_the_open = expected.is_some_and(|url| url.starts_with("http://"));
            assert_eq!(token_url(challenge, "https").is_none(), expected.is_none() || in_the_open);
            assert_eq!(token_url(challenge, "http").as_deref(), expected, "{challenge}");
        }
    }
}
