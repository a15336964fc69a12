//! Stores in sled as coordinators of their day wrote them, tree by tree, a record a line: tree, key and bytes in hexadecimal
//! digits. What was written once is read for ever: these files are never written again. A new version gets a file of its own.

use std::path::Path;
use std::time::Duration;

use wattfarm_coordinator::store::verify;
use wattfarm_cost::measurement::Recipe;

use crate::store::open;
use crate::store_dump::{lived_since, told};

/// From before there were packs.
const VERSION_1: &str = include_str!("golden/sled-v1.txt");

const VERSION_2: &str = include_str!("golden/sled-v2.txt");

/// All that a store tells that lived as long as the golden ones.
fn today() -> String {
    let today = format!("{:?}", told(&lived_since().store));
    today.replace(&format!("{:?}", Recipe::LAYER), "LayerInNetwork2")
}

fn told_by(folder: &Path) -> String {
    let store = open(folder);
    verify(&store).expect("sound");
    format!("{:?}", told(&store))
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).expect("plain"), 16);
    pairs.map(|pair| byte(pair).expect("digits")).collect()
}

fn write<'a>(folder: &Path, records: impl Iterator<Item = &'a str>) {
    let database = raw(folder);
    for record in records {
        let parts: Vec<_> = record.split(' ').map(unhex).collect();
        let tree = database.open_tree(&parts[0]).expect("opens");
        tree.insert(parts[1].as_slice(), parts[2].as_slice())
            .expect("inserts");
    }
}

/// sled's own view of a store. Threads of one that was just closed hold its file a little longer.
fn raw(folder: &Path) -> sled::Db {
    let config = sled::Config::new().path(folder);
    for _ in 0..200 {
        match config.open() {
            Ok(database) => return database,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    config.open().expect("opens")
}

#[test]
fn stores_of_version_2_are_still_read() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), VERSION_2.lines());
    assert_eq!(told_by(folder.path()), today());
}

/// They are brought over when they are opened; also if that was begun already.
#[test]
fn stores_of_before_packs_are_brought_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, VERSION_1.lines());
    assert_eq!(told_by(folder), today());
    assert_eq!(told_by(folder), today(), "and once only");
    let database = raw(folder);
    assert!(!database.tree_names().iter().any(|name| *name == "jobs"));
    // As if it had died before it said that all is there. But the commits of the meantime were acknowledged.
    let commits = database.open_tree("commits").expect("opens");
    commits.remove("packed").expect("removes");
    drop((commits, database));
    let of_commits = |record: &&str| unhex(record.split(' ').next().expect("a tree")) == b"commits";
    write(
        folder,
        VERSION_1.lines().filter(|record| !of_commits(record)),
    );
    assert_eq!(told_by(folder), today());
}
