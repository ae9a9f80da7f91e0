//! When has a client left?

use std::pin::pin;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::worker::tests::pair;

const LIMITS: Duration = Duration::from_secs(30);

/// A connection on which these bytes came, and then the client's end.
async fn ended(bytes: &[u8]) -> (TcpStream, H1Rx) {
    let (mut client, io) = pair().await;
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    (client, split(io, Vec::new()).0)
}

async fn path(rx: &mut H1Rx) -> Option<Vec<u8>> {
    let head = rx.request(&Limits::default(), LIMITS).await.unwrap();
    head.map(|head| head.path)
}

/// Looks until the client's end was seen. True: it counts as gone.
async fn is_gone(rx: &mut H1Rx, window: Duration) -> bool {
    for _ in 0..1_000 {
        let gone = timeout(Duration::from_millis(5), rx.gone_after(window)).await;
        if gone.is_ok() || rx.closed {
            return gone.is_ok();
        }
    }
    panic!("its end was never seen");
}

#[tokio::test]
async fn a_client_that_ends_its_side_with_its_requests_waits_for_all_answers() {
    let two = b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n";
    let (_client, mut rx) = ended(two).await;
    for expected in [b"/1", b"/2"] {
        assert_eq!(path(&mut rx).await.as_deref(), Some(&expected[..]));
        assert!(!is_gone(&mut rx, LIMITS).await, "it listens");
    }
    assert_eq!(path(&mut rx).await, None, "and then it is over");
}

#[tokio::test]
async fn a_client_that_ends_its_side_later_has_left() {
    let (_client, mut rx) = ended(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(path(&mut rx).await.is_some());
    assert!(is_gone(&mut rx, Duration::ZERO).await);
    let mut again = pin!(rx.gone());
    assert!(
        timeout(LIMITS, again.as_mut()).await.is_ok(),
        "and stays so"
    );
}
