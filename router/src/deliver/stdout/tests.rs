use std::io;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::deliver::Cursor;
use crate::journal::Block;
use crate::record::{Fingerprint, RecordId, Row, Seq};
use crate::schema::Schema;

/// Hands out its blocks one by one, and remembers what was printed at each commit.
struct Lane {
    stream: Arc<str>,
    blocks: Vec<Rows>,
    pipe: Arc<Mutex<Pipe>>,
    commits: Vec<(Seq, u64, usize, usize)>,
}

#[derive(Default)]
struct Pipe {
    unflushed: Vec<u8>,
    read: Vec<u8>,
    is_closed: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.unflushed.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut unflushed = std::mem::take(&mut self.unflushed);
        self.read.append(&mut unflushed);
        Ok(())
    }
}

impl Feed for Lane {
    fn stream(&self) -> &Arc<str> {
        &self.stream
    }
    fn cursor(&self) -> Cursor {
        Cursor::default()
    }
    fn next(&mut self, _: usize) -> BoxFuture<'_, Result<Option<Vec<Rows>>, Error>> {
        let next = if self.blocks.is_empty() { None } else { Some(vec![self.blocks.remove(0)]) };
        Box::pin(async { Ok(next) })
    }
    fn next_blocks(&mut self, _: usize) -> BoxFuture<'_, Result<Option<Vec<(Seq, Block)>>, Error>> {
        Box::pin(async { Ok(None) })
    }
    fn is_ready(&self) -> bool {
        !self.blocks.is_empty()
    }
    fn rewind(&mut self, _: Seq) {}
    fn commit(&mut self, progress: Progress) -> BoxFuture<'_, Result<(), Error>> {
        let read = self.pipe.lock().unwrap().read.len();
        self.commits.push((progress.next, progress.delivered, progress.dead.len(), read));
        Box::pin(async { Ok(()) })
    }
}

fn lane(blocks: &[&[&[u8]]]) -> Lane {
    let file = prost_types::FileDescriptorProto {
        name: Some("t.proto".into()),
        package: Some("t".into()),
        message_type: vec![prost_types::DescriptorProto {
            name: Some("Line".into()),
            field: vec![prost_types::FieldDescriptorProto {
                name: Some("text".into()),
                number: Some(1),
                label: Some(1),
                r#type: Some(9),
                ..Default::default()
            }],
            ..Default::default()
        }],
        syntax: Some("proto3".into()),
        ..Default::default()
    };
    let set = prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec();
    let pool = prost_reflect::DescriptorPool::decode(&set[..]).unwrap();
    let schema = Arc::new(Schema::new(pool.get_message_by_name("t.Line").unwrap()));
    assert_ne!(schema.fingerprint, Fingerprint::default());
    let rows = |(messages, seq): (&&[&[u8]], Seq)| Rows {
        stream: "lines".into(),
        seq,
        schema: schema.clone(),
        agent: "edge-1".into(),
        received_nanos: 5,
        records: messages.iter().map(|m| Row { id: RecordId([7; 16]), message: Bytes::copy_from_slice(m) }).collect(),
        received_count: messages.len() as u32,
    };
    let blocks = blocks.iter().zip(1..).map(rows).collect();
    Lane { stream: "lines".into(), blocks, pipe: Arc::default(), commits: Vec::new() }
}

#[tokio::test]
async fn lines_are_out_before_the_cursor_moves() {
    let mut lane = lane(&[&[b"\x0a\x01a", b"\x0a\x01b"], &[], &[b"\x0a\xff", b"\x0a\x03\"c\n"]]);
    let pipe = lane.pipe.clone();
    StdoutSink::with_output("out".into(), pipe.clone()).run(&mut lane, Stop::new()).await.unwrap();
    let expected = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"\\\"c\\n\"}\n";
    assert_eq!(String::from_utf8(pipe.lock().unwrap().read.clone()).unwrap(), expected);
    assert_eq!(lane.commits, [(2, 2, 0, 26), (3, 0, 0, 26), (4, 1, 1, expected.len())]);
}

#[tokio::test]
async fn a_closed_pipe_stops_the_sink_and_commits_nothing() {
    let mut lane = lane(&[&[b"\x0a\x01a"]]);
    let pipe = lane.pipe.clone();
    pipe.lock().unwrap().is_closed = true;
    let error = StdoutSink::with_output("out".into(), pipe).run(&mut lane, Stop::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "deliver stream lines to sink out: write to standard output: broken pipe");
    assert_eq!(lane.commits, []);
}
