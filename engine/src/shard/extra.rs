//! The rare attributes of flows. They are stored apart, so that only flows that have some take memory for them.

use ctflow_parser::flow::{FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::ProtoInfo;
use ctflow_parser::tuple::Tuple;

/// The rare attributes of one flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    labels: Option<Labels>,
    /// The helper's name and its private data.
    helper: Option<(Box<str>, Box<[u8]>)>,
    secctx: Option<Box<str>>,
    seqadj_orig: Option<SeqAdj>,
    seqadj_reply: Option<SeqAdj>,
    synproxy: Option<Synproxy>,
    master: Option<Tuple>,
    /// The state of the SCTP or DCCP tracker, of which the compact flow keeps the state number only.
    proto: Option<ProtoInfo>,
}

impl Extra {
    /// Whether `view` has a rare attribute. The kernel sends some of these attributes with all bytes zero for flows
    /// that do not use them; a zero attribute does not count.
    #[inline]
    pub(crate) fn is_needed_for(view: &FlowView<'_>) -> bool {
        let RareAttributes { labels, helper, secctx, seqadj_orig, seqadj_reply, synproxy, master } = &view.rare;
        labels.is_some_and(|labels| labels != Labels::default())
            || helper.is_some()
            || secctx.is_some()
            || seqadj_orig.is_some_and(|adjustment| adjustment != SeqAdj::default())
            || seqadj_reply.is_some_and(|adjustment| adjustment != SeqAdj::default())
            || synproxy.is_some_and(|synproxy| synproxy != Synproxy::default())
            || master.is_some()
            || matches!(view.proto, Some(ProtoInfo::Sctp(_) | ProtoInfo::Dccp(_)))
    }

    /// Replaces the attributes that `view` has, and keeps the others; returns whether anything changed. An attribute
    /// that is equal, as in nearly every event of a flow with a helper, costs one comparison and no allocation.
    pub(crate) fn merge(&mut self, view: &FlowView<'_>) -> bool {
        let RareAttributes { labels, helper, secctx, seqadj_orig, seqadj_reply, synproxy, master } = &view.rare;
        let mut changed = update_if_some(&mut self.labels, *labels)
            | update_if_some(&mut self.seqadj_orig, *seqadj_orig)
            | update_if_some(&mut self.seqadj_reply, *seqadj_reply)
            | update_if_some(&mut self.synproxy, *synproxy)
            | update_if_some(&mut self.master, *master)
            | update_if_some(&mut self.proto, view.proto.filter(|proto| !matches!(proto, ProtoInfo::Tcp(_))));
        if let Some(helper) = helper.filter(|helper| self.helper() != Some(*helper)) {
            self.helper = Some((helper.name.into(), helper.info.into()));
            changed = true;
        }
        if let Some(context) = secctx.filter(|context| self.secctx.as_deref() != Some(context)) {
            self.secctx = Some(context.into());
            changed = true;
        }
        changed
    }

    /// The helper as a view has it.
    fn helper(&self) -> Option<Helper<'_>> {
        self.helper.as_ref().map(|(name, info)| Helper { name, info })
    }

    /// Returns `view` with these attributes added. `view` must be of the flow that they belong to.
    pub(crate) fn add_to<'a>(&'a self, view: FlowView<'a>) -> FlowView<'a> {
        FlowView {
            rare: RareAttributes {
                labels: self.labels,
                helper: self.helper(),
                secctx: self.secctx.as_deref(),
                seqadj_orig: self.seqadj_orig,
                seqadj_reply: self.seqadj_reply,
                synproxy: self.synproxy,
                master: self.master,
            },
            proto: self.proto.or(view.proto),
            ..view
        }
    }
}

/// Replaces `stored` by `new` where that is `Some`; returns whether it changed.
fn update_if_some<T: PartialEq>(stored: &mut Option<T>, new: Option<T>) -> bool {
    let changed = new.is_some() && *stored != new;
    if changed {
        *stored = new;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_zero_attributes_need_no_extra() {
        let zeros = RareAttributes {
            labels: Some(Labels::default()),
            seqadj_orig: Some(SeqAdj::default()),
            seqadj_reply: Some(SeqAdj::default()),
            synproxy: Some(Synproxy::default()),
            ..RareAttributes::default()
        };
        let is_needed = |rare| Extra::is_needed_for(&FlowView { rare, ..FlowView::default() });
        assert!(!is_needed(zeros), "flows created by ctnetlink have them, and would cost four times as much");
        assert!(is_needed(RareAttributes { labels: Some(Labels(4)), ..zeros }));
    }
}
