//! A service with JSON items of about 1 KB: what is asked in, what it answers out. Pure.
//!
//! Nothing is kept: every request gets an instance of its own, and Podless has no store for components yet. What a
//! client sends is read, checked and given back as it would be stored; what it asks for is made from the ID alone, the
//! same each time. So the work is that of such a service without its store.

mod id;
mod item;
mod sample;

use http::{Method, Response, StatusCode, header};
use serde::Serialize;

use id::Id;
use item::{Fault, Item};

/// An item as it is answered.
#[derive(Serialize)]
struct Stored<'a> {
    id: Id,
    version: u32,
    #[serde(flatten)]
    item: &'a Item,
}

/// What a list says of an item.
#[derive(Serialize)]
struct Summary {
    id: Id,
    name: String,
}

/// What went wrong, as RFC 9457 has it.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
}

/// Items of a list.
const PAGE: u64 = 10;

/// Answers a request.
pub fn answer(method: &Method, path: &str, body: &[u8]) -> Response<Vec<u8>> {
    match (method, path.strip_prefix("/items")) {
        (&Method::POST, _) if path == "/echo" => reply(StatusCode::OK, "application/octet-stream", body.to_vec()),
        (&Method::POST, Some("")) => create(body),
        (&Method::GET | &Method::HEAD, Some("")) => list(),
        (_, Some("")) => not_allowed("GET, HEAD, POST"),
        (_, Some(rest)) => match rest.strip_prefix('/').and_then(Id::parse) {
            Some(id) => one(method, id, body),
            None => problem(StatusCode::NOT_FOUND, "no such item: an ID is 16 hexadecimal digits", vec![]),
        },
        (_, None) if path == "/echo" => not_allowed("POST"),
        (_, None) => problem(StatusCode::NOT_FOUND, "no such path: there are /items, /items/ID and /echo", vec![]),
    }
}

fn create(body: &[u8]) -> Response<Vec<u8>> {
    match Item::read(body) {
        Ok(item) => {
            let id = Id::of(&item);
            let mut answer = json(StatusCode::CREATED, &Stored { id, version: 1, item: &item });
            if let Ok(location) = format!("/items/{id}").parse() {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            answer
        }
        Err(refused) => refused,
    }
}

fn list() -> Response<Vec<u8>> {
    let items: Vec<_> = (0..PAGE).map(Id::number).map(|id| Summary { id, name: sample::item(id).name }).collect();
    json(StatusCode::OK, &items)
}

fn one(method: &Method, id: Id, body: &[u8]) -> Response<Vec<u8>> {
    match *method {
        Method::GET | Method::HEAD => json(StatusCode::OK, &Stored { id, version: 1, item: &sample::item(id) }),
        Method::PUT => match Item::read(body) {
            Ok(item) => json(StatusCode::OK, &Stored { id, version: 2, item: &item }),
            Err(refused) => refused,
        },
        Method::DELETE => {
            let mut answer = Response::new(vec![]);
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer
        }
        _ => not_allowed("GET, HEAD, PUT, DELETE"),
    }
}

fn not_allowed(methods: &'static str) -> Response<Vec<u8>> {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "not with this method", vec![]);
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(methods));
    answer
}

fn problem(status: StatusCode, title: &str, faults: Vec<Fault>) -> Response<Vec<u8>> {
    let body = serde_json::to_vec(&Problem { title, status: status.as_u16(), faults }).unwrap_or_default();
    reply(status, "application/problem+json", body)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Vec<u8>> {
    match serde_json::to_vec(body) {
        Ok(body) => reply(status, "application/json", body),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written", vec![]),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(method: Method, path: &str, body: &[u8]) -> (u16, Value) {
        let answer = answer(&method, path, body);
        (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
    }

    fn example() -> Vec<u8> {
        include_bytes!("../item.json").to_vec()
    }

    #[test]
    fn what_is_sent_comes_back_as_it_would_be_stored() {
        let (status, created) = ask(Method::POST, "/items", &example());
        assert_eq!((status, &created["version"]), (201, &json!(1)), "{created}");
        let sent: Value = serde_json::from_slice(&example()).expect("JSON");
        for (field, value) in sent.as_object().expect("an object") {
            assert_eq!(&created[field], value);
        }
        let path = format!("/items/{}", created["id"].as_str().expect("an ID"));
        let location = answer(&Method::POST, "/items", &example()).headers()[header::LOCATION].clone();
        assert_eq!(location, path);
        let (status, changed) = ask(Method::PUT, &path, &example());
        assert_eq!((status, &changed["id"], &changed["version"]), (200, &created["id"], &json!(2)));
        assert_eq!(ask(Method::DELETE, &path, b""), (204, Value::Null));
    }

    #[test]
    fn every_id_is_an_item_that_could_have_been_sent() {
        for number in (0..200).chain([u64::MAX]) {
            let path = format!("/items/{}", Id::number(number));
            let got = answer(&Method::GET, &path, b"");
            let bytes = got.body().len();
            assert!((900..=1100).contains(&bytes), "{path} has {bytes} bytes");
            assert_eq!(got.body(), answer(&Method::GET, &path, b"").body(), "the same each time");
            let mut item: Value = serde_json::from_slice(got.body()).expect("JSON");
            let fields = item.as_object_mut().expect("an object");
            (fields.remove("id"), fields.remove("version"));
            let (status, said) = ask(Method::PUT, &path, item.to_string().as_bytes());
            assert_eq!(status, 200, "{said}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (method, path, body, status) in [
            (Method::POST, "/items", "", 400),
            (Method::POST, "/items", "{\"name\":", 400),
            (Method::POST, "/items", "{\"name\":\"x\"}", 422),
            (Method::PUT, "/items/0000000000000001", "[]", 422),
            (Method::PUT, "/items/1", "{}", 404),
            (Method::GET, "/items/000000000000000G", "", 404),
            (Method::GET, "/items/0000000000000001/", "", 404),
            (Method::GET, "/itemsx", "", 404),
            (Method::GET, "/", "", 404),
            (Method::DELETE, "/items", "", 405),
            (Method::POST, "/items/0000000000000001", "", 405),
            (Method::GET, "/echo", "", 405),
        ] {
            let (got, said) = ask(method.clone(), path, body.as_bytes());
            assert_eq!((got, &said["status"]), (status, &json!(status)), "{method} {path}: {said}");
        }
    }

    #[test]
    fn a_body_comes_back_and_a_list_has_a_page() {
        assert_eq!(answer(&Method::POST, "/echo", b"\0\xff").body(), b"\0\xff");
        let (status, list) = ask(Method::GET, "/items", b"");
        assert_eq!((status, list.as_array().map(Vec::len)), (200, Some(PAGE as usize)));
        assert_eq!(answer(&Method::HEAD, "/items", b"").status(), 200);
    }
}
