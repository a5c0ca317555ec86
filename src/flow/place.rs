//! `Place`: where an artifact is, read from the address that a plan gives. Knows nothing of what is there.

use std::fmt;

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An absolute path of the machine.
    Disk(String),
    /// One file on a server.
    Server {
        /// All of its address.
        url: String,
        /// The file's own name.
        name: String,
    },
    /// An image in a registry.
    Registry(Reference),
    /// An image in an archive on the machine's disk.
    Archive {
        /// An absolute path of the machine.
        path: String,
        /// Which of its images, where there are several.
        image: Option<String>,
    },
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host, and port where it is not the scheme's own.
    pub registry: String,
    /// The repository's name.
    pub repository: String,
    /// A tag, or `sha256:` and 64 digits, which wins where both are given.
    pub version: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.version.contains(':') { '@' } else { ':' };
        write!(f, "{}/{}{sign}{}", self.registry, self.repository, self.version)
    }
}

impl Place {
    /// Reads a source; what is wrong with it otherwise, and the cure.
    ///
    /// # Errors
    /// A sentence that goes on from the source itself.
    pub fn parse(source: &str) -> Result<Self, &'static str> {
        const FORMS: &str = "is no source that can be read; give file:///absolute/path, http(s)://server/path of a tarball, oci://registry/name:tag, or oci:///path/of/an/image.tar";
        let Some((scheme, rest)) = source.split_once("://") else {
            return if source.starts_with('/') { Ok(Self::Disk(source.to_owned())) } else { Err(FORMS) };
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Disk(rest.to_owned())),
            "file" => Err("has no absolute path; write file:// and then the path, which begins with /"),
            "http" | "https" => server(source, rest),
            "oci" if rest.starts_with('/') => archive(rest),
            "oci" => Ok(Self::Registry(reference(rest, is_loopback(rest))?)),
            "oci+http" => Ok(Self::Registry(reference(rest, true)?)),
            _ => Err(FORMS),
        }
    }
}

fn server(source: &str, rest: &str) -> Result<Place, &'static str> {
    const NO_FILE: &str = "names no file on a server; write http(s)://server/path/of/the/file";
    let (server, file) = rest.split_once('/').ok_or(NO_FILE)?;
    let name = file.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    if server.is_empty() || ["", ".", ".."].contains(&name) {
        return Err(NO_FILE);
    }
    Ok(Place::Server { url: source.to_owned(), name: name.to_owned() })
}

fn archive(rest: &str) -> Result<Place, &'static str> {
    let (path, image) = match rest.split_once('#') {
        Some((_, "")) => {
            return Err("ends in # and names no image; write name:tag after it, or leave it out");
        }
        Some((path, image)) => (path, Some(image.to_owned())),
        None => (rest, None),
    };
    if path.ends_with('/') {
        return Err("names a folder; give the image archive, a tar file as `docker save` writes it");
    }
    Ok(Place::Archive { path: path.to_owned(), image })
}

/// Nobody listens in on the way to the machine itself.
fn is_loopback(rest: &str) -> bool {
    let server = rest.split('/').next().unwrap_or_default();
    let host = server.rsplit_once(':').map_or(server, |(host, _port)| host);
    let mut parts = host.split('.');
    let is_v4 = parts.clone().count() == 4 && parts.all(|part| part.parse::<u8>().is_ok());
    host == "localhost" || host == "[::1]" || (is_v4 && host.starts_with("127."))
}

fn reference(rest: &str, plain: bool) -> Result<Reference, &'static str> {
    const NO_NAME: &str = "names no image; write oci://registry/name:tag";
    let (registry, image) = rest.split_once('/').ok_or(NO_NAME)?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    if registry.is_empty() || !registry.bytes().all(is_host) {
        return Err("names no registry, or one with a user in it; write oci://host[:port]/name:tag");
    }
    let (named, digest) = match image.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (image, None),
    };
    let (repository, tag) = match named.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (named, None),
    };
    let is_part = |part: &str| {
        let edge =
            |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inside)
    };
    if repository.len() > 255 || !repository.split('/').all(is_part) {
        return Err(NO_NAME);
    }
    let is_tag = |tag: &str| {
        let first = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        first && tag.len() <= 128 && tag.bytes().all(inside)
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("has a tag that no registry knows; the tag of v1.35.6+rke2r1 is v1.35.6-rke2r1");
    }
    let is_digest = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("has a digest that is none; write @sha256: and its 64 hexadecimal digits");
    }
    let version = digest.or(tag).ok_or("has neither tag nor digest; append one, as in :v1.35.6-rke2r1")?;
    Ok(Reference {
        scheme: if plain { "http" } else { "https" },
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        version: version.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(source: &str) -> (String, &'static str) {
        let Ok(Place::Registry(reference)) = Place::parse(source) else { panic!("{source} is an image") };
        (reference.to_string(), reference.scheme)
    }

    #[test]
    fn every_form_of_a_source_is_known() {
        let disk = |path: &str| Place::Disk(path.into());
        let archive = |image: Option<&str>| Place::Archive {
            path: "/a/b.tar.zst".into(),
            image: image.map(Into::into),
        };
        let url = "https://mirror/v1/rke2.linux-amd64.tar.gz?x=/y";
        let table = [
            ("/var/release", disk("/var/release")),
            ("file:///var/release", disk("/var/release")),
            (url, Place::Server { url: url.into(), name: "rke2.linux-amd64.tar.gz".into() }),
            ("oci:///a/b.tar.zst", archive(None)),
            ("oci:///a/b.tar.zst#rancher/x:v1", archive(Some("rancher/x:v1"))),
        ];
        for (source, expected) in table {
            assert_eq!(Place::parse(source), Ok(expected), "{source}");
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        for (source, scheme) in
            [("reg:5000/a/b-c:v1", "https"), ("reg/a__b:1", "https"), ("localhost:5000/a:v1", "http")]
        {
            assert_eq!(image(&format!("oci://{source}")), (source.into(), scheme));
        }
        assert_eq!(image("oci+http://reg/a:v1"), ("reg/a:v1".into(), "http"));
        for (host, scheme) in [
            ("[::1]:5000", "http"),
            ("127.8.0.1", "http"),
            ("127.0.0.example", "https"),
            ("10.0.0.1", "https"),
        ] {
            assert_eq!(image(&format!("oci://{host}/a:v1")).1, scheme, "{host}");
        }
        let both = image(&format!("oci://127.0.0.1/a:v1@{digest}"));
        assert_eq!(both, (format!("127.0.0.1/a@{digest}"), "http"));
    }

    #[test]
    fn what_is_no_source_is_refused_with_its_cure() {
        for (source, cure) in [
            ("", "oci://registry/name:tag"),
            ("relative/path", "file:///absolute/path"),
            ("ftp://mirror/rke2", "file:///absolute/path"),
            ("file://host/path", "begins with /"),
            ("http://mirror", "http(s)://server/path"),
            ("http:///rke2.tar.gz", "http(s)://server/path"),
            ("https://mirror/folder/", "http(s)://server/path"),
            ("oci://reg", "oci://registry/name:tag"),
            ("oci://reg/Upper:v1", "oci://registry/name:tag"),
            ("oci://reg/a//b:v1", "oci://registry/name:tag"),
            ("oci://user:word@reg/a:v1", "oci://host[:port]"),
            ("oci://reg/a", ":v1.35.6-rke2r1"),
            ("oci://reg/a:v1.35.6+rke2r1", "v1.35.6-rke2r1"),
            ("oci://reg/a@sha256:abc", "64 hexadecimal"),
            ("oci:///a.tar#", "name:tag"),
            ("oci:///folder/", "docker save"),
        ] {
            let why = Place::parse(source).unwrap_err();
            assert!(why.contains(cure), "{source}: {why} should say {cure}");
        }
    }
}
