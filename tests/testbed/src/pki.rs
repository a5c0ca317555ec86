//! The keys and certificates of one test bed. Owns nothing but the files that it writes; all are thrown away with the run.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate authority that signs while the test bed runs.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate
    pub certificate: String,
    /// The private key, PKCS#8
    pub key: String,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be shown by a server
    Server,
    /// To be shown by a client
    Client,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The authority's own certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a new key for `name`, valid for these host names and addresses.
    ///
    /// # Errors
    /// When a host name is not ASCII.
    pub fn sign(
        &self,
        name: &str,
        purpose: Purpose,
        hosts: &[&str],
        addresses: &[IpAddr],
    ) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

/// Everything that the processes of a control plane read, as files in one directory.
#[derive(Debug)]
pub struct ControlPlaneKeys {
    dir: PathBuf,
    authority: Authority,
}

impl ControlPlaneKeys {
    /// Writes `ca.crt`, `apiserver.{crt,key}`, `front-proxy-ca.crt`, `front-proxy-client.{crt,key}` and `sa.{key,pub}`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(dir: &Path, address: IpAddr) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let keys = Self { dir: dir.to_owned(), authority: Authority::new("testbed")? };
        keys.put("ca.crt", keys.authority.certificate())?;

        let hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let service = IpAddr::from([10, 96, 0, 1]);
        let server = keys.authority.sign("kube-apiserver", Purpose::Server, &hosts, &[address, service])?;
        keys.put_identity("apiserver", &server)?;

        // The aggregation layer's client must not be signed by the authority that signs users.
        let front = Authority::new("testbed-front-proxy")?;
        keys.put("front-proxy-ca.crt", front.certificate())?;
        keys.put_identity(
            "front-proxy-client",
            &front.sign("front-proxy-client", Purpose::Client, &[], &[])?,
        )?;

        let service_accounts = KeyPair::generate()?;
        keys.put("sa.key", &service_accounts.serialize_pem())?;
        keys.put("sa.pub", &service_accounts.public_key_pem())?;
        Ok(keys)
    }

    /// The authority that the API server trusts for clients and that signed its own certificate.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn put_identity(&self, name: &str, identity: &Identity) -> Result<()> {
        self.put(&format!("{name}.crt"), &identity.certificate)?;
        self.put(&format!("{name}.key"), &identity.key)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
