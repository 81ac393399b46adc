//! Creates and deletes numbered flows in the calling thread's network.

use ctflow_engine::kernel::batch::Batch;
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::{self, FlowChange, IfExists, Selector};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, IPPROTO_UDP};

/// The original direction of flow `n`. Every flow has another one.
fn tuple(n: u32) -> Tuple {
    let [_, high, middle, low] = n.to_be_bytes();
    let l4 = L4::Ports { src: 1000, dst: 53 };
    let address = |first| std::net::Ipv4Addr::new(first, high, middle, low).into();
    Tuple { src: address(10), dst: address(11), proto: IPPROTO_UDP, l4, zone: None }
}

/// Creates the flows of these numbers in batches. A flow's mark is its number.
pub(crate) fn create(numbers: impl Iterator<Item = u32>) {
    let mut batch = Batch::open("create flows").unwrap();
    let refused = &mut |refused| panic!("{refused:?}");
    for n in numbers {
        let orig = tuple(n);
        let reply = Tuple { src: orig.dst, dst: orig.src, l4: L4::Ports { src: 53, dst: 1000 }, ..orig };
        let (orig, reply) = (Some(orig), Some(reply));
        let flow = FlowView { family: AF_INET, orig, reply, timeout: Some(600), mark: Some(n), ..FlowView::default() };
        let change = FlowChange { flow, ..FlowChange::default() };
        batch.add(n.into(), |writer, seq| request::create(writer, seq, &change, IfExists::Refuse), refused).unwrap();
    }
    batch.finish(refused).unwrap();
}

/// Deletes the flows of these numbers in batches.
pub(crate) fn delete(numbers: impl Iterator<Item = u32>) {
    let mut batch = Batch::open("delete flows").unwrap();
    let refused = &mut |refused| panic!("{refused:?}");
    for n in numbers {
        let which = Selector::Orig(tuple(n));
        batch.add(n.into(), |writer, seq| request::delete(writer, seq, &which, None, None), refused).unwrap();
    }
    batch.finish(refused).unwrap();
}
