//! Machine code back to an operator that has lost it. In: its question, and the orders of that component; out: an
//! assignment as it was received, its note, and the code. IO; what serves never waits for it.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use podless_link::v1::Given;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{link::Client, state::StateDir, store::Store, verify::Order};

/// Bytes in one piece.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead of what the operator has taken.
const AHEAD: usize = 2;

/// Answers. Without an order, or where the artifact does not lie here with the note of one, there is nothing to give.
pub(super) async fn give(
    mut client: Client,
    store: Store,
    state: StateDir,
    id: u64,
    orders: Vec<Arc<Order>>,
) -> Result<(), Status> {
    let (to, pieces) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let with_note = |order: &Arc<Order>| store.with_note(&order.seal, &order.note_sha256);
        let received = |order: &Order| order.received.get().or_else(|| state.one(&order.identity.uid));
        let found = orders.iter().find_map(|order| Some((with_note(order)?, received(order)?)));
        let Some(((note, code), assign)) = found else {
            let _ = to.blocking_send(Given { id, ..Given::default() });
            return Ok(());
        };
        // Who does not listen any more has what it needs.
        if to.blocking_send(Given { id, assign: Some(assign), note, data: vec![] }).is_err() {
            return Ok(());
        }
        send(code, &to)
    });
    client.give_back(ReceiverStream::new(pieces)).await?;
    reading.await.map_err(io::Error::other).flatten().map_err(|error| Status::internal(error.to_string()))
}

fn send(mut code: File, to: &mpsc::Sender<Given>) -> io::Result<()> {
    loop {
        let mut data = vec![];
        (&mut code).take(PIECE as u64).read_to_end(&mut data)?;
        if data.is_empty() || to.blocking_send(Given { data, ..Given::default() }).is_err() {
            return Ok(());
        }
    }
}
