//! `podless run`: from a file or an image to answers, and to the status at the end.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt,
    thread,
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Home, Registry, guest};

fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let conditions = status["conditions"].as_array().expect("conditions");
    let found = conditions.iter().find(|condition| condition["type"] == kind).expect(kind);
    (found["status"].as_str().expect("a status"), found["reason"].as_str().expect("a reason"))
}

/// The machine code in the cache, by inode: a compilation makes a new file.
fn compiled(home: &Home) -> Vec<u64> {
    let entries = fs::read_dir(home.path().join(".cache/podless-cli/artifacts")).expect("a cache");
    let entries = entries.map(|entry| entry.expect("an entry"));
    let code = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "cwasm"));
    code.map(|entry| entry.metadata().expect("its facts").ino()).collect()
}

#[test]
fn a_component_is_served_until_ctrl_c_and_compiled_once() {
    let home = Home::new();
    let hello = guest("hello").display().to_string();
    let arguments = ["run", &hello, "--listen", "127.0.0.1:0", "--env", "GREETING=Hello, it is here"];
    let served = home.serve(1, &arguments);
    for _ in 0..3 {
        let (code, body) = served.get(0, "/");
        assert_eq!(code, 200);
        assert!(body.contains("Hello, it is here"), "{body}");
    }
    let url = format!("http://{}", served.urls[0]);
    served.signal(Signal::INT);
    let (code, printed) = served.end();
    assert_eq!(code, 0, "{printed}");
    let object: Value = serde_yaml_ng::from_str(&printed).expect("YAML");
    assert_eq!((&object["kind"], &object["metadata"]["name"]), (&"WasmService".into(), &"hello".into()));
    let status = &object["status"];
    for kind in ["Resolved", "Audited", "Precompiled", "Placed", "Available", "Ready"] {
        assert_eq!(condition(status, kind).0, "True", "{kind}");
    }
    assert_eq!(status["url"], url);
    assert!(status["image"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{printed}");
    assert!(status["imports"].as_array().is_some_and(|imports| imports.iter().any(|i| i["grant"] == "Granted")));
    assert!(status["artifacts"][0]["size"].as_i64() > Some(0));
    assert_eq!((&status["coldStart"]["count"], &status["readyReplicas"]), (&3.into(), &1.into()));
    assert!(status["coldStart"]["firstByte"]["p50"].as_str().is_some_and(|p50| p50.ends_with('s')), "{printed}");
    assert!(status["density"]["residentBytes"].as_i64() > Some(0), "{printed}");
    assert!(status["density"]["bytesPerInstance"].as_i64() > Some(0), "{printed}");
    assert!(status["instances"].as_i64() >= Some(1));

    let before = compiled(&home);
    let (one, another) = (home.serve(1, &arguments), home.serve(1, &arguments));
    let left =
        fs::read_dir(home.path().join(".cache/podless-cli")).expect("a cache").map(|entry| entry.unwrap().file_name());
    let left: BTreeSet<_> = left.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(
        left,
        ["artifacts", "lock", "seal.key"].map(str::to_owned).into(),
        "what serves needs nothing of the disk"
    );
    for served in [one, another] {
        assert_eq!(served.get(0, "/").0, 200, "two at once");
        served.signal(Signal::TERM);
        assert_eq!(served.end().0, 0);
    }
    assert_eq!((before.len(), compiled(&home)), (1, before), "the second run compiles nothing");
}

#[test]
fn a_variable_without_a_value_has_the_one_of_the_environment() {
    let home = Home::new();
    let probe = guest("probe").display().to_string();
    let served = home.serve(1, &["run", &probe, "--listen", "127.0.0.1:0", "--env", "HOME"]);
    let (code, body) = served.get(0, "/env");
    assert_eq!(code, 200);
    assert!(body.contains(&format!("HOME={}\n", home.path().display())), "{body}");
}

#[test]
fn a_yaml_file_with_several_services_is_served_from_a_registry_and_from_files() {
    let (home, registry) = (Home::new(), Registry::start());
    let image = format!("{}/team/greeter:1.0", registry.host);
    let hello = guest("hello").display().to_string();
    let (code, digest, said) = home.podless(&["push", &hello, &image, "--plain-http", &registry.host]);
    assert_eq!(code, 0, "{said}");
    home.file("parts/logger.wasm", fs::read(guest("logger")).expect("the guest"));
    let yaml = format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
---
apiVersion: podless.dev/v1alpha1
kind: WasmService
metadata: {{name: greeter}}
spec:
  image: {image}
  env:
    - {{name: GREETING, value: Good evening}}
    - name: TOKEN
      valueFrom: {{secretKeyRef: {{name: tokens, key: greeter}}}}
---
apiVersion: podless.dev/v1alpha1
kind: WasmService
metadata: {{name: talker}}
spec:
  image: ./logger.wasm
  capabilities: {{logging: {{}}}}
---
apiVersion: podless.dev/v1alpha1
kind: WasmService
metadata: {{name: stopped}}
spec: {{image: ./logger.wasm, capabilities: {{logging: {{}}}}, replicas: 0}}
"#
    );
    let file = home.file("parts/services.yaml", yaml);
    let run = ["run", &file, "--listen", "127.0.0.1:0", "--plain-http", &registry.host, "--output", "json"];
    let served = home.serve(3, &[&run[..], &["--env", "TOKEN=s3cr3t-t0ken"]].concat());
    assert!(served.get(0, "/").1.contains("Good evening"));
    assert_eq!(served.get(2, "/").0, 503, "stopped on purpose");
    assert_eq!(served.get(1, "/").0, 200);
    served.wait_for("[talker] ");
    assert!(!holds(home.path(), b"s3cr3t-t0ken"), "a secret is on the disk");
    served.signal(Signal::INT);
    let (code, printed) = served.end();
    assert_eq!(code, 0);
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["greeter", "talker", "stopped"]);
    assert_eq!(objects[0]["status"]["image"]["digest"], digest.trim());
    assert_eq!(objects[1]["status"]["coldStart"]["count"], 1);
    assert_eq!(condition(&objects[1]["status"], "Ready"), ("True", "Serving"));
    assert_eq!(condition(&objects[2]["status"], "Available"), ("False", "Stopped"));
    assert!(!printed.contains("s3cr3t-t0ken"), "a secret is printed");
}

/// Whether a file below this folder holds these bytes.
fn holds(folder: &std::path::Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).any(|path| {
        if path.is_dir() {
            return holds(&path, bytes);
        }
        fs::read(&path).expect("a file").windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn wasi_0_3_is_served_too() {
    let home = Home::new();
    let served = home.serve(1, &["run", &guest("hello-p3").display().to_string(), "--listen", "127.0.0.1:0"]);
    assert_eq!(served.get(0, "/").0, 200);
}

#[test]
fn a_second_ctrl_c_waits_for_nobody() {
    let home = Home::new();
    let mut served = home.serve(1, &["run", &guest("probe").display().to_string(), "--listen", "127.0.0.1:0"]);
    // Half a request: it is in flight from the head of its answer until its timeout.
    let mut stream = TcpStream::connect(&served.urls[0]).expect("connected");
    write!(stream, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").expect("sent");
    let mut head = String::new();
    BufReader::new(&stream).read_line(&mut head).expect("a line");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let started = Instant::now();
    served.signal(Signal::INT);
    assert!(served.first_printed().starts_with("apiVersion"), "the status is there before the last answer");
    served.signal(Signal::INT);
    assert_eq!(served.end().0, 130);
    assert!(started.elapsed().as_secs() < 20, "it waited for the answer");
}

#[test]
fn other_servers_are_asked_only_when_granted() {
    // Nothing is sent: connecting a UDP socket only chooses an address of this machine that is not loopback.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("198.51.100.1:9").expect("this machine has an address besides loopback");
    let ip = socket.local_addr().expect("an address").ip();
    let listener = TcpListener::bind((ip, 0)).expect("a port");
    let upstream = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nupstream");
        }
    });
    let home = Home::new();
    let fetch = guest("fetch").display().to_string();
    let (code, _, said) = home.podless(&["run", &fetch, "--listen", "127.0.0.1:0"]);
    assert!(code == 1 && said.contains("give --allow-host"), "{said}");
    let (path, range) = (format!("/fetch?{upstream}/"), format!("{ip}/32"));
    for (grants, answer) in [
        (vec!["--allow-host", &upstream, "--allow-cidr", &range], (200, "upstream")),
        (vec!["--allow-host", &upstream], (502, "DestinationIpProhibited")),
        (vec!["--allow-host", "none"], (502, "HttpRequestDenied")),
    ] {
        let served = home.serve(1, &[&["run", &fetch, "--listen", "127.0.0.1:0"], &grants[..]].concat());
        let (code, body) = served.get(0, &path);
        assert!(code == answer.0 && body.contains(answer.1), "{grants:?}: {code} {body}");
    }
}

#[test]
fn code_of_each_option_of_the_compiler_is_served() {
    let home = Home::new();
    let mut services = String::new();
    for (n, compiler) in ["{}", "{optimize: SpeedAndSize}", "{optimize: Fast}", "{inlining: true}"].iter().enumerate() {
        services.push_str(&format!(
            "apiVersion: podless.dev/v1alpha1\nkind: WasmService\nmetadata: {{name: hello-{n}}}\n\
             spec:\n  image: {}\n  compiler: {compiler}\n---\n",
            guest("hello").display(),
        ));
    }
    let file = home.path().join("services.yaml");
    fs::write(&file, services).expect("written");
    let served = home.serve(4, &["run", &file.display().to_string(), "--listen", "127.0.0.1:0"]);
    for n in 0..4 {
        assert_eq!(served.get(n, "/").0, 200, "service {n}");
    }
    assert_eq!(compiled(&home).len(), 4, "each has code of its own");
}
