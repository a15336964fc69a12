//! A farm's own authority: one key that vouches for the coordinator and its clients, and nobody else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::draft::write_whole;

/// How long the authority vouches for anybody, and each certificate holds, in days.
const AUTHORITY_DAYS: i64 = 3650;
const CERTIFICATE_DAYS: i64 = 825;

/// The files of a folder of certificates.
#[derive(Debug, Clone)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// Those in a folder.
    pub fn within(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// What clients trust.
    pub fn authority(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// What makes more certificates: it need not lie where the coordinator runs.
    pub fn authority_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    /// What the coordinator shows.
    pub fn coordinator(&self) -> PathBuf {
        self.0.join("coordinator.pem")
    }

    /// What the coordinator proves it by.
    pub fn coordinator_key(&self) -> PathBuf {
        self.0.join("coordinator.key")
    }

    /// What clients show where the coordinator asks for it.
    pub fn client(&self) -> PathBuf {
        self.0.join("client.pem")
    }

    /// What clients prove it by.
    pub fn client_key(&self) -> PathBuf {
        self.0.join("client.key")
    }

    /// Makes them: the authority if it isn't there, and certificates for a coordinator of these names and for clients, anew
    /// each time.
    pub fn make(&self, names: &[String]) -> anyhow::Result<()> {
        ensure!(
            !names.is_empty(),
            "a coordinator has at least one name or address"
        );
        fs::create_dir_all(&self.0)
            .with_context(|| format!("make the folder `{}`", self.0.display()))?;
        let authority = self.make_authority()?;
        let coordinator = leaf(
            names.to_vec(),
            ExtendedKeyUsagePurpose::ServerAuth,
            "coordinator",
        )?;
        issue(
            &authority,
            coordinator,
            &self.coordinator(),
            &self.coordinator_key(),
        )?;
        let client = leaf(vec![], ExtendedKeyUsagePurpose::ClientAuth, "client")?;
        issue(&authority, client, &self.client(), &self.client_key())
    }

    fn make_authority(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::new(vec![]).context("describe the authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "wattfarm authority");
        expire(&mut params, AUTHORITY_DAYS)?;
        let path = self.authority_key();
        let key = match fs::read_to_string(&path) {
            Ok(pem) => KeyPair::from_pem(&pem)
                .with_context(|| format!("use the authority's key `{}`", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().context("draw the authority's key")?;
                let certificate = params.self_signed(&key).context("sign the authority")?;
                write_whole(&path, &key.serialize_pem())?;
                write_whole(&self.authority(), &certificate.pem())?;
                key
            }
            Err(error) => {
                return Err(error).with_context(|| format!("read `{}`", path.display()));
            }
        };
        // The name and the key are all that a certificate says of its issuer.
        Ok(Issuer::new(params, key))
    }
}

fn leaf(
    names: Vec<String>,
    purpose: ExtendedKeyUsagePurpose,
    called: &str,
) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).context("read the coordinator's names")?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params
        .distinguished_name
        .push(DnType::CommonName, format!("wattfarm {called}"));
    expire(&mut params, CERTIFICATE_DAYS)?;
    Ok(params)
}

/// From yesterday on, so that a clock a little behind trusts it too.
fn expire(params: &mut CertificateParams, days: i64) -> anyhow::Result<()> {
    let day = |offset: i64| {
        let then = Timestamp::now().checked_add(Span::new().hours(24 * offset));
        let then = then.context("reckon a date")?;
        let date = jiff::tz::TimeZone::UTC.to_datetime(then).date();
        let (month, day) = (date.month() as u8, date.day() as u8);
        Ok::<_, anyhow::Error>(date_time_ymd(date.year().into(), month, day))
    };
    params.not_before = day(-1)?;
    params.not_after = day(days)?;
    Ok(())
}

fn issue(
    authority: &Issuer<'_, KeyPair>,
    params: CertificateParams,
    certificate: &Path,
    key: &Path,
) -> anyhow::Result<()> {
    let own = KeyPair::generate().context("draw a key")?;
    let signed = params
        .signed_by(&own, authority)
        .context("sign a certificate")?;
    write_whole(key, &own.serialize_pem())?;
    write_whole(certificate, &signed.pem())
}
