use std::io::ErrorKind;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn start(max_connections: usize) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let app = Router::new().route("/", get(async || "here"));
    let server = tokio::spawn(serve(listener, app, max_connections, async {
        let _ = stopped.await;
    }));
    (address, stop, server)
}

async fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    stream
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 1024];
    let length = stream.read(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).unwrap_err();
    assert_eq!(error.error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("`{address}`")), "{error}");
    assert!(error.to_string().contains("`--port`"), "{error}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_one_to_end() {
    let (address, _stop, _server) = start(1);
    let mut first = ask(address).await;
    assert!(answer(&mut first).await.ends_with("here"));
    let mut second = ask(address).await;
    let early = tokio::time::timeout(Duration::from_millis(200), answer(&mut second)).await;
    assert!(early.is_err(), "answered beside the first: {early:?}");
    drop(first);
    assert!(answer(&mut second).await.ends_with("here"));
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_the_port() {
    let (address, stop, server) = start(8);
    let mut idle = ask(address).await;
    answer(&mut idle).await;
    stop.send(()).unwrap();
    server.await.unwrap();
    assert_eq!(answer(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_only_before_its_first_request() {
    let asked = AtomicBool::new(true);
    let endless = tokio::time::timeout(Duration::from_secs(3600), silence(&asked)).await;
    assert!(endless.is_err());
    asked.store(false, Ordering::Relaxed);
    tokio::time::timeout(FIRST_REQUEST_TIMEOUT + Duration::from_secs(1), silence(&asked)).await.unwrap();
}
