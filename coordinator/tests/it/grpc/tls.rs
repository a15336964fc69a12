//! TLS and mutual TLS with a farm's own authority, through the options that every client has.

use std::path::Path;
use std::sync::Arc;

use wattfarm_coordinator::certs::Certificates;
use wattfarm_coordinator::farm::Role;
use wattfarm_coordinator::server::tls;
use wattfarm_coordinator::store::MemoryStore;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::tls::TlsArgs;
use wattfarm_proto::v1::ListPlatformsRequest;

use super::{Farm, OPERATOR};

fn certificates(folder: &Path, names: &[&str]) -> Certificates {
    let certificates = Certificates::within(folder);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    certificates.make(&names).expect("makes them");
    certificates
}

fn trusting(certificates: &Certificates) -> TlsArgs {
    TlsArgs {
        ca: Some(certificates.authority()),
        cert: None,
        key: None,
    }
}

fn known(certificates: &Certificates) -> TlsArgs {
    TlsArgs {
        cert: Some(certificates.client()),
        key: Some(certificates.client_key()),
        ..trusting(certificates)
    }
}

/// Whether a call goes through.
async fn reaches(address: &str, tls: &TlsArgs) -> bool {
    let target = tls.target(address).expect("good options");
    let Ok(connection) = Connection::open(target, Some(OPERATOR)).await else {
        return false;
    };
    connection
        .models()
        .list_platforms(unary(ListPlatformsRequest {}))
        .await
        .is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_vouched_for_is_spoken_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = certificates(&folder.path().join("ours"), &["localhost", "127.0.0.1"]);
    let others = certificates(&folder.path().join("others"), &["localhost", "127.0.0.1"]);
    for mutual in [false, true] {
        let config = tls(&ours, mutual).expect("good certificates");
        let store = Arc::new(MemoryStore::default());
        let farm = Farm::encrypted(store, config, &known(&ours), Some(Role::Request)).await;
        let address = farm.address.as_str();
        let cases = [
            ("known and trusting", known(&ours), true),
            ("trusting alone", trusting(&ours), !mutual),
            ("trusts another authority", known(&others), false),
            (
                "vouched for by another",
                TlsArgs {
                    ca: Some(ours.authority()),
                    ..known(&others)
                },
                !mutual,
            ),
            ("in the clear", TlsArgs::default(), false),
        ];
        for (who, args, expected) in cases {
            assert_eq!(
                reaches(address, &args).await,
                expected,
                "{who}, mutual: {mutual}"
            );
        }
        farm.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_of_another_name_is_not_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = certificates(folder.path(), &["elsewhere.test"]);
    let config = tls(&elsewhere, false).expect("good certificates");
    let store = Arc::new(MemoryStore::default());
    let settings = wattfarm_coordinator::server::Settings {
        operator_key: OPERATOR.to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        tls: Some(config),
        anonymous: None,
    };
    let server = wattfarm_coordinator::server::Server::start(store, settings)
        .await
        .expect("starts");
    assert!(!reaches(&server.address().to_string(), &trusting(&elsewhere)).await);
    server.stop().await.expect("stops");
}

/// New certificates from the same authority: clients that trust it go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_stays_when_certificates_are_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = certificates(folder.path(), &["127.0.0.1"]);
    let read = |path| std::fs::read(path).expect("made");
    let (authority, coordinator) = (read(first.authority()), read(first.coordinator()));
    let again = certificates(folder.path(), &["127.0.0.1"]);
    assert_eq!(read(again.authority()), authority);
    assert_ne!(read(again.coordinator()), coordinator);
    let config = tls(&again, true).expect("good certificates");
    let store = Arc::new(MemoryStore::default());
    let farm = Farm::encrypted(store, config, &known(&again), None).await;
    assert!(reaches(&farm.address, &known(&again)).await);
    farm.stop().await;
}
