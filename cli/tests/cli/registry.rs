//! Registries: what is pushed can be looked at and served, and logins come from Docker's configuration.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use serde_json::Value;

use crate::support::{Home, Registry, guest};

#[test]
fn what_was_pushed_is_found_by_its_digest() {
    let (home, registry) = (Home::new(), Registry::start());
    let (hello, image) = (guest("hello").display().to_string(), format!("{}/hello:1", registry.host));
    let push = ["push", &hello, &image, "--plain-http", &registry.host];
    let (code, digest, said) = home.podless(&push);
    assert_eq!(code, 0, "{said}");
    assert_eq!(home.podless(&push).1, digest, "the same component has the same digest");
    let pinned = format!("{}/hello@{}", registry.host, digest.trim());
    let (code, printed, said) = home.podless(&["inspect", &pinned, "--plain-http", &registry.host, "--output", "json"]);
    assert_eq!(code, 0, "{said}");
    let found: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(found["digest"], digest.trim());
    let served = home.serve(1, &["run", &image, "--plain-http", &registry.host, "--listen", "127.0.0.1:0"]);
    assert_eq!(served.get(0, "/").0, 200);
}

/// Refuses whoever does not send this, and has nothing for anybody else.
fn guarded(authorization: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || listener.incoming().for_each(|stream| answer(&stream.expect("a connection"), authorization)));
    host
}

fn answer(mut stream: &TcpStream, authorization: &str) {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    // To the last line: what is left unread would reset the connection.
    let known = lines.filter(|line| line.eq_ignore_ascii_case(authorization)).count() > 0;
    let head = if known { "404 Not Found" } else { "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"" };
    let _ = write!(stream, "HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

#[test]
fn logins_come_from_dockers_configuration() {
    // user:right
    let host = guarded("Authorization: Basic dXNlcjpyaWdodA==");
    let image = format!("{host}/a:1");
    let entry = |host: &str, auth: &str| format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#);
    for (config, says) in [
        ("{}".to_owned(), "log in with `docker login`"),
        (entry(&host, "dXNlcjpyaWdodA=="), "the registry has no"),
        // user:wrong
        (entry(&host, "dXNlcjp3cm9uZw=="), "log in again"),
        (entry("elsewhere.example", "dXNlcjpyaWdodA=="), "knows other registries only"),
        (r#"{"credsStore": "desktop"}"#.to_owned(), "docker-credential-desktop"),
        ("no JSON".to_owned(), "is not Docker's configuration"),
    ] {
        let home = Home::new();
        home.file(".docker/config.json", &config);
        let (code, _, said) = home.podless(&["inspect", &image, "--plain-http", &host]);
        assert_eq!(code, 1, "{config}: {said}");
        assert!(said.contains(says) && !said.contains("dXNlcj"), "{config}: {said}");
    }
}
