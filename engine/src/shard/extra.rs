//! What few flows have, kept beside them: only flows that have any of it pay for it.

use ctflow_parser::flow::{FlowView, Helper, Labels, SeqAdj, Synproxy};
use ctflow_parser::proto::ProtoInfo;
use ctflow_parser::tuple::Tuple;

/// The rare part of a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    labels: Option<Labels>,
    helper: Option<(Box<str>, Box<[u8]>)>,
    secctx: Option<Box<str>>,
    seqadj_orig: Option<SeqAdj>,
    seqadj_reply: Option<SeqAdj>,
    synproxy: Option<Synproxy>,
    master: Option<Tuple>,
    /// What the SCTP or DCCP tracker knows beyond its state.
    proto: Option<ProtoInfo>,
}

impl Extra {
    /// Whether `view` says anything that belongs here. The kernel gives some attributes to flows that have nothing of the
    /// kind, all zero: these are no reason to begin one.
    #[inline]
    pub(crate) fn is_needed_for(view: &FlowView<'_>) -> bool {
        view.labels.is_some_and(|labels| labels != Labels::default())
            || view.helper.is_some()
            || view.secctx.is_some()
            || view.seqadj_orig.is_some_and(|adjustment| adjustment != SeqAdj::default())
            || view.seqadj_reply.is_some_and(|adjustment| adjustment != SeqAdj::default())
            || view.synproxy.is_some_and(|synproxy| synproxy != Synproxy::default())
            || view.master.is_some()
            || matches!(view.proto, Some(ProtoInfo::Sctp(_) | ProtoInfo::Dccp(_)))
    }

    /// Takes over what the view says and keeps what it does not; tells whether anything changed. What is the same as
    /// before, as in nearly every event of a flow with a helper, costs a comparison.
    pub(crate) fn merge(&mut self, view: &FlowView<'_>) -> bool {
        let mut changed = update_if_some(&mut self.labels, view.labels)
            | update_if_some(&mut self.seqadj_orig, view.seqadj_orig)
            | update_if_some(&mut self.seqadj_reply, view.seqadj_reply)
            | update_if_some(&mut self.synproxy, view.synproxy)
            | update_if_some(&mut self.master, view.master)
            | update_if_some(&mut self.proto, view.proto.filter(|proto| !matches!(proto, ProtoInfo::Tcp(_))));
        if let Some(helper) = view.helper.filter(|helper| self.helper() != Some(*helper)) {
            self.helper = Some((helper.name.into(), helper.info.into()));
            changed = true;
        }
        if let Some(context) = view.secctx.filter(|context| self.secctx.as_deref() != Some(context)) {
            self.secctx = Some(context.into());
            changed = true;
        }
        changed
    }

    fn helper(&self) -> Option<Helper<'_>> {
        self.helper.as_ref().map(|(name, info)| Helper { name, info })
    }

    /// Adds what is kept here to the view of the flow it belongs to.
    pub(crate) fn add_to<'a>(&'a self, view: FlowView<'a>) -> FlowView<'a> {
        FlowView {
            labels: self.labels,
            helper: self.helper(),
            secctx: self.secctx.as_deref(),
            seqadj_orig: self.seqadj_orig,
            seqadj_reply: self.seqadj_reply,
            synproxy: self.synproxy,
            master: self.master,
            proto: self.proto.or(view.proto),
            ..view
        }
    }
}

/// Puts in what is told, if anything; tells whether it is different.
fn update_if_some<T: PartialEq>(kept: &mut Option<T>, told: Option<T>) -> bool {
    let changed = told.is_some() && *kept != told;
    if changed {
        *kept = told;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_zero_attributes_need_no_extra() {
        let zeros = FlowView {
            labels: Some(Labels::default()),
            seqadj_orig: Some(SeqAdj::default()),
            seqadj_reply: Some(SeqAdj::default()),
            synproxy: Some(Synproxy::default()),
            ..FlowView::default()
        };
        assert!(!Extra::is_needed_for(&zeros), "what ctnetlink makes has them, and would cost four times as much");
        assert!(Extra::is_needed_for(&FlowView { labels: Some(Labels(4)), ..zeros }));
    }
}
