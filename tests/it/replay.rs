//! Every recording of `wire/` that needs no more than the server has is played against it, and its answers are checked.
//! The others are listed with what they wait for.

mod list;
mod player;
mod script;
mod shells;
mod wanted;

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use list::{PLAYED, WAITING};
use player::Player;

use crate::harness::Server;

/// Sessions that are played side by side.
const SIDE_BY_SIDE: usize = 6;

#[test]
fn every_recording_is_played_or_waits_for_something() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/wire");
    let files: BTreeSet<String> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".jsonl").map(str::to_owned))
        .collect();
    let played: BTreeSet<_> = PLAYED.iter().map(|session| session.file.to_owned()).collect();
    let waiting: BTreeSet<_> = WAITING.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(played.len() + waiting.len(), PLAYED.len() + WAITING.len(), "one is listed twice");
    assert_eq!(played.intersection(&waiting).collect::<Vec<_>>(), Vec::<&String>::new(), "in both lists");
    let listed: BTreeSet<_> = played.union(&waiting).cloned().collect();
    assert_eq!(files.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "in no list");
    assert_eq!(listed.difference(&files).collect::<Vec<_>>(), Vec::<&String>::new(), "no such file");
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_are_answered_as_recorded() {
    // One user has the terminals of all recordings.
    let server = Server::start_with(&[("PATCHBAY_TERMINALS_PER_USER", "100")]).await;
    let admin = server.admin().await;
    let results: Vec<_> = stream::iter(PLAYED.iter().enumerate())
        .map(|(number, session)| {
            let (admin, target) = (admin.clone(), server.target());
            async move {
                let result = Player::play(session, number, admin, target).await;
                (session.file, result)
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let failed: Vec<_> =
        results.into_iter().filter_map(|(file, result)| Some(format!("{file}: {:#}", result.err()?))).collect();
    assert!(failed.is_empty(), "{} of {} recordings:\n{}", failed.len(), PLAYED.len(), failed.join("\n"));
}
