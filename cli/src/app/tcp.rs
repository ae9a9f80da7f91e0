//! What does the TCP echo send? Every byte back; before that its name, if it speaks first.

use tokio::io::{self, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Name;

/// Serves one connection.
pub(super) async fn connection(mut stream: TcpStream, greeting: Option<Name>) {
    if let Some(name) = greeting {
        let line = format!("hello from {} in {}\n", name.pod, name.cluster);
        if stream.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
    let (mut from, mut to) = stream.split();
    if io::copy(&mut from, &mut to).await.is_ok() {
        let _closed = to.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn it_greets_first_and_echoes_to_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let name = Name {
            pod: "echo-1".into(),
            cluster: "west".into(),
        };
        tokio::spawn(connection(stream, Some(name)));
        let mut greeting = [0_u8; 25];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello from echo-1 in west");
        client.write_all(b"abc").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "\nabc");
    }
}
