//! When must this process stop?

use std::future;
use std::io::{self, Read as _};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Completes at SIGINT, SIGTERM or SIGHUP, and with `with_stdin` when standard input ends.
///
/// A parent that holds the other end of standard input takes its children with it, however it
/// ends: a pipe closes also when its owner is killed.
pub(crate) async fn requested(with_stdin: bool) {
    let stdin = async {
        if with_stdin {
            stdin_ended().await;
        } else {
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = stdin => {}
        () = of_kind(SignalKind::interrupt()) => {}
        () = of_kind(SignalKind::terminate()) => {}
        () = of_kind(SignalKind::hangup()) => {}
    }
}

/// Without the signal (no more file descriptors, say) the others still stop the process.
async fn of_kind(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(_) => future::pending().await,
    }
}

/// Reading standard input blocks and can't be cancelled: a thread of its own does it, which the
/// end of the process ends.
async fn stdin_ended() {
    let (ended, wait) = oneshot::channel::<()>();
    thread::spawn(move || {
        let mut buffer = [0_u8; 64];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                Ok(_) | Err(_) => {}
            }
        }
        drop(ended);
    });
    // The sender is dropped, never used: the error is the message.
    let _ended = wait.await;
}
