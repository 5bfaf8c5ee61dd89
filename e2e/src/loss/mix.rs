//! The mix: the number of a request in, what is sent and what must come back out. Pure.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::{Kind, Plan};

/// Bytes of a POST's body.
const BODY: usize = 1024;

/// How a request gets to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// On a connection of its own.
    New,
    /// On an HTTP/1.1 connection that has served others.
    KeepAlive,
    /// On an HTTP/2 connection, by prior knowledge.
    Http2,
}

/// What the service under load answers.
#[derive(Clone, Copy, Debug)]
pub enum Guest {
    /// What it was told, as the guest `probe` does: a wrong answer is noticed.
    Echo,
    /// After half a second, as the guest `probe` does: as many are in flight as are sent in half a second.
    Slow,
    /// After so many million steps of computing, about two milliseconds each, as the guest `probe` does.
    Busy(u32),
    /// Anything, by 200.
    Any,
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) number: usize,
    /// How many its lane has had before.
    pub(super) round: usize,
    pub(super) lane: Lane,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Bytes,
    /// The body that must come back, if it is known.
    answer: Option<Bytes>,
}

/// The request of this number: each lane in turn, GET and POST in turn on each.
pub(super) fn ask(plan: &Plan, number: usize) -> Ask {
    let (lane, round) = (plan.lanes[number % plan.lanes.len()], number / plan.lanes.len());
    let post = round % 2 == 1;
    let method = if post { Method::POST } else { Method::GET };
    let body = if post { body(number) } else { Bytes::new() };
    let (path, answer) = match plan.guest {
        Guest::Any => ("/".to_owned(), None),
        Guest::Slow => ("/slow?ms=500".to_owned(), Some(Bytes::from_static(b"500 ms\n"))),
        Guest::Busy(millions) => {
            (format!("/compute?millions={millions}"), Some(Bytes::from(format!("{millions} million steps\n"))))
        }
        Guest::Echo if post => ("/echo".to_owned(), Some(body.clone())),
        Guest::Echo => (format!("/say?{number}"), Some(Bytes::from(number.to_string()))),
    };
    Ask { number, round, lane, method, path, body, answer }
}

/// A body like no other's.
fn body(number: usize) -> Bytes {
    let mut text = format!("{number} ").repeat(BODY);
    text.truncate(BODY);
    text.into()
}

impl Ask {
    /// Whether an answer is the one that was asked for.
    pub(super) fn judge(&self, status: StatusCode, body: &[u8]) -> Result<(), (Kind, String)> {
        let begin = || String::from_utf8_lossy(&body[..body.len().min(120)]).trim().to_owned();
        if status != StatusCode::OK {
            return Err((Kind::Status(status.as_u16()), begin()));
        }
        match &self.answer {
            Some(answer) if answer != body => Err((Kind::WrongBody, format!("{} bytes: {}", body.len(), begin()))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(guest: Guest, number: usize) -> Ask {
        super::ask(&Plan { guest, ..Plan::default() }, number)
    }

    #[test]
    fn each_lane_gets_a_third_and_each_of_them_half_of_both_methods() {
        let all: Vec<_> = (0..60).map(|number| ask(Guest::Echo, number)).collect();
        for lane in [Lane::New, Lane::KeepAlive, Lane::Http2] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(
                    all.iter().filter(|a| a.lane == lane && a.method == method).count(),
                    10,
                    "{lane:?} {method}"
                );
            }
        }
    }

    #[test]
    fn only_what_was_asked_for_is_good() {
        let (get, post, any) = (ask(Guest::Echo, 6), ask(Guest::Echo, 9), ask(Guest::Any, 6));
        assert_eq!(post.body.len(), BODY);
        let kind = |ask: &Ask, status, body: &[u8]| ask.judge(status, body).err().map(|(kind, _)| kind);
        assert_eq!(kind(&get, StatusCode::OK, b"6"), None);
        assert_eq!(kind(&get, StatusCode::OK, b"7"), Some(Kind::WrongBody));
        assert_eq!(kind(&post, StatusCode::OK, &post.body), None);
        assert_eq!(kind(&post, StatusCode::OK, &post.body[1..]), Some(Kind::WrongBody));
        assert_eq!(kind(&any, StatusCode::OK, b"hello"), None);
        assert_eq!(kind(&any, StatusCode::BAD_GATEWAY, b"hello"), Some(Kind::Status(502)));
        assert_eq!(kind(&any, StatusCode::NOT_FOUND, b""), Some(Kind::Status(404)));
    }
}
