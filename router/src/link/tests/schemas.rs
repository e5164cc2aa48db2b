//! Schemas travel in front of the blocks that need them.

use std::sync::Arc;

use bytes::Bytes;

use super::fixture::*;
use crate::link::frame::{self, Frame};
use crate::link::message::SchemaOffer;
use crate::schema::Settings;
use crate::schema::registry::Registry;

const AGENT: &str = "edge-1";

/// A registry that knows `test.Played`.
fn edge_registry() -> Registry {
    let directory = tempfile::tempdir().unwrap();
    let proto = "syntax = \"proto3\"; package test; message Played { string id = 1; }";
    std::fs::write(directory.path().join("played.proto"), proto).unwrap();
    let proto_roots = vec![directory.path().to_owned()];
    Registry::load(&Settings { proto_roots, ..Settings::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn central_learns_a_schema_before_its_first_block_is_durable() {
    let pki = Pki::new(&[AGENT]);
    let (here, there) = (edge_registry(), Registry::load(&Settings::default()).unwrap());
    let schema = here.message("test.Played").unwrap();
    let mut central = Central::start_with(&pki, &["playback"], there.clone(), 1 << 30).await;
    let mut edge = Edge::start_with(
        &pki,
        AGENT,
        &[central.address],
        Arc::new(move |fingerprint| here.by_fingerprint(fingerprint)),
    );
    let lane = Lane::new((1..=20).map(|seq| block_of(schema.fingerprint, AGENT, "playback", seq, 5)));
    lane.end();
    edge.forward("playback", &lane);
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", 1..=20, 5));
    assert_eq!(there.by_fingerprint(schema.fingerprint).unwrap().message(), "test.Played");
    let kept = central.journal.schemas().unwrap();
    let kept = kept.iter().find(|(fingerprint, _, _)| *fingerprint == schema.fingerprint);
    let (_, message, descriptors) = kept.expect("the schema is in the journal");
    assert_eq!((&**message, descriptors), ("test.Played", &schema.descriptors));
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_not_what_it_says_is_refused() {
    let pki = Pki::new(&[AGENT]);
    let schema = edge_registry().message("test.Played").unwrap();
    let mut central = Central::start(&pki, &["playback"]).await;
    let raw = RawEdge::connect(&pki, AGENT, central.address).await;
    for (message, descriptors) in [
        ("test.Other", schema.descriptors.clone()),
        ("test.Played", Bytes::from_static(b"nonsense")),
        ("test.Played", Bytes::new()),
    ] {
        let (mut lane, last) = raw.ready("playback").await;
        assert_eq!(last, 0);
        let fingerprint = Bytes::copy_from_slice(&schema.fingerprint.0);
        let offer = SchemaOffer { fingerprint, message: message.into(), descriptors };
        frame::write(&mut lane.send, &Frame::Schema(offer)).await.unwrap();
        lane.send(&block_of(schema.fingerprint, AGENT, "playback", 1, 1)).await.unwrap();
        let answer = within("refusal", lane.reader.next()).await.unwrap();
        let Some(Frame::LaneRefused(refused)) = answer else { panic!("{answer:?}") };
        assert!(refused.reason.starts_with(&format!("learn schema {message}, ")), "{}", refused.reason);
        assert!(refused.retryable);
    }
    assert!(central.records("playback").is_empty());
    central.stop().await;
}
