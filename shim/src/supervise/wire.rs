//! What the serving process asks of its supervisor: a datagram for the question, one for the answer, and beside it the
//! listening socket when that is the answer. An answer repeats its question: one that comes too late is no other's. IO: a
//! socket pair.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    io::retry_on_intr,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
    },
};

/// Bytes of a question.
const QUESTION: usize = 3;
/// Bytes of an answer: the question and an error's number.
const ANSWER: usize = QUESTION + size_of::<i32>();

/// A question of the serving process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The listening socket of this port: the one that is held, or a new one.
    Port(u16),
    /// This port is to be closed.
    Forget(u16),
    /// Everything that was served before is asked for by now: other ports that are held can be closed.
    Settled,
}

impl Ask {
    fn encode(self) -> [u8; QUESTION] {
        let (kind, port) = match self {
            Self::Port(port) => (1, port),
            Self::Forget(port) => (2, port),
            Self::Settled => (3, 0),
        };
        let [high, low] = port.to_be_bytes();
        [kind, high, low]
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        match *bytes {
            [1, high, low] => Ok(Self::Port(u16::from_be_bytes([high, low]))),
            [2, high, low] => Ok(Self::Forget(u16::from_be_bytes([high, low]))),
            [3, _, _] => Ok(Self::Settled),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a question of a serving process")),
        }
    }
}

/// Two ends that keep datagrams apart.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Asks, and waits for the answer.
pub(crate) fn ask(supervisor: impl AsFd, ask: Ask) -> io::Result<Option<OwnedFd>> {
    let question = ask.encode();
    retry_on_intr(|| send(&supervisor, &question, SendFlags::NOSIGNAL))?;
    loop {
        let (answer, socket) = receive(&supervisor)?;
        let (echo, code) = answer.split_at(QUESTION);
        // Another's is of a question that was given up.
        if echo == question {
            return match i32::from_ne_bytes(code.try_into().map_err(io::Error::other)?) {
                0 => Ok(socket),
                code => Err(io::Error::from_raw_os_error(code)),
            };
        }
    }
}

fn receive(supervisor: &impl AsFd) -> io::Result<([u8; ANSWER], Option<OwnedFd>)> {
    let mut answer = [0; ANSWER];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(supervisor, &mut [IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes != ANSWER {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the supervisor is gone"));
    }
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok((answer, socket))
}

/// The next question; `None` when the serving process is gone.
pub(crate) fn asked(child: impl AsFd) -> io::Result<Option<Ask>> {
    let mut bytes = [0; 8];
    match retry_on_intr(|| recv(&child, &mut bytes[..], RecvFlags::empty()))? {
        (_, 0) => Ok(None),
        (_, length) => Ask::decode(&bytes[..length.min(bytes.len())]).map(Some),
    }
}

/// Answers a question.
pub(crate) fn answer(child: impl AsFd, ask: Ask, answer: io::Result<Option<BorrowedFd<'_>>>) -> io::Result<()> {
    let (code, socket) = match answer {
        Ok(socket) => (0, socket),
        Err(error) => (error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error()), None),
    };
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<_> = socket.into_iter().collect();
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&sockets));
    }
    let (question, code) = (ask.encode(), code.to_ne_bytes());
    sendmsg(child, &[IoSlice::new(&question), IoSlice::new(&code)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn questions_come_through_and_nonsense_does_not() {
        for question in [Ask::Port(20_001), Ask::Forget(49_999), Ask::Settled] {
            assert_eq!(Ask::decode(&question.encode()).expect("decoded"), question);
        }
        for nonsense in [&b""[..], b"\x01", b"\x04\0\0", b"\x01\0\0\0"] {
            assert!(Ask::decode(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_socket_or_an_error_comes_back() {
        let (supervisor, child) = pair().expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(asked(&supervisor).expect("asked"), Some(Ask::Port(1)));
                // An answer that nobody waits for any more.
                answer(&supervisor, Ask::Port(7), Ok(Some(supervisor.as_fd()))).expect("answered");
                answer(&supervisor, Ask::Port(1), Ok(Some(listener.as_fd()))).expect("answered");
                assert_eq!(asked(&supervisor).expect("asked"), Some(Ask::Settled));
                answer(&supervisor, Ask::Settled, Ok(None)).expect("answered");
                assert_eq!(asked(&supervisor).expect("asked"), Some(Ask::Port(2)));
                answer(&supervisor, Ask::Port(2), Err(io::ErrorKind::AddrInUse.into())).expect("answered");
            });
            let socket = ask(&child, Ask::Port(1)).expect("answered").expect("a socket");
            assert_eq!(TcpListener::from(socket).local_addr().expect("an address"), address);
            assert!(ask(&child, Ask::Settled).expect("answered").is_none());
            assert!(ask(&child, Ask::Port(2)).is_err());
        });
        drop(child);
        assert_eq!(asked(&supervisor).expect("the end"), None);
    }
}
