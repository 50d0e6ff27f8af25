//! A state that takes long to send, one part after another without a pause.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use kv_node::protocol::follower::Follower;
use kv_node::protocol::messages::ToFollower;
use kv_node::protocol::types::{Epoch, FollowerId, Record, Version};
use kv_node::replication::session::Connection;
use kv_node::replication::{replica::Replica, wire};
use kv_node::store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const EPOCH: Epoch = Epoch { term: 1, leader: 7 };

fn part(number: u64) -> ToFollower {
    let version = Version { epoch: EPOCH, seq: 1 };
    let record = |key: u64| (format!("key{key}").into(), Record { version, value: Some("value".into()), marks: None });
    ToFollower::Install { epoch: EPOCH, records: (0..512).map(|key| record(number % 64 * 512 + key)).collect() }
}

/// Goal: the leader hears its follower while a transfer is under way, and so does not take it for dead.
/// Method: parts without end, none of which is answered, until there were signs of life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_under_a_long_transfer_stays_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut leader = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
    let (stream, _) = listener.accept().await.expect("a connection");
    let replica = Replica::new(Follower::blank(FollowerId(1), "follower".into()), Store::Memory, None);
    let serving = {
        let replica: Arc<Replica> = replica.clone();
        tokio::spawn(async move {
            let (reader, writer) = stream.into_split();
            let connection = Connection { reader, writer, read: BytesMut::new() };
            replica.serve(connection, "leader".into()).await.map_err(|error| error.to_string())
        })
    };

    let mut output = BytesMut::new();
    wire::encode(&ToFollower::Prepare { epoch: EPOCH }, &mut output);
    leader.write_all_buf(&mut output).await.expect("sent");
    let (mut reader, mut writer) = leader.into_split();
    // Encoded before: what is sent has to come faster than it is taken.
    let mut parts = BytesMut::new();
    (0..64).for_each(|number| wire::encode(&part(number), &mut parts));
    let parts = parts.freeze();
    let sending = tokio::spawn(async move { while writer.write_all(&parts).await.is_ok() {} });

    let mut input = BytesMut::new();
    let signs_of_life = async {
        // Every answer is a frame: four bytes of length, and so many more. A sign of life is a frame of nothing. The first may
        // leave before the transfer begins.
        let mut signs = 0;
        loop {
            while input.len() >= 4 {
                let length = u32::from_le_bytes([input[0], input[1], input[2], input[3]]) as usize;
                signs += u32::from(length == 0);
                if input.len() < 4 + length {
                    break;
                }
                input.advance(4 + length);
            }
            if signs >= 3 {
                return;
            }
            assert_ne!(reader.read_buf(&mut input).await.expect("read"), 0, "the follower hung up");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), signs_of_life).await.expect("heard during the transfer");
    sending.abort();
    serving.abort();
}
