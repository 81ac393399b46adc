//! One expectation: a related flow that the kernel awaits.

use crate::attr::{Attr, Attrs};
use crate::error::ParseError;
use crate::tuple::Tuple;
use crate::uapi;
use crate::write::{Full, Writer};

/// The fields of one expectation that the kernel sent, or that a request sends.
///
/// Code that keeps, replicates, commits or prints expectations destructures the view without `..`. So where an
/// attribute is added here, the compiler names every place that has to handle it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpectView<'a> {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// The original direction of the awaited flow, under `mask`.
    pub tuple: Option<Tuple>,
    /// The bits of `tuple` that must match.
    pub mask: Option<Tuple>,
    /// The original direction of the flow that the expectation belongs to.
    pub master: Option<Tuple>,
    /// Seconds until the expectation expires.
    pub timeout: Option<u32>,
    /// The kernel's id of the expectation.
    pub id: Option<u32>,
    /// The helper that awaits the flow.
    pub helper: Option<&'a str>,
    /// The zone of the master.
    pub zone: Option<u16>,
    /// `NF_CT_EXPECT_*`.
    pub flags: Option<u32>,
    /// The helper's class of expectations.
    pub class: Option<u32>,
    /// How the awaited flow is to be translated.
    pub nat: Option<ExpectNat>,
    /// The kernel function that is called when the awaited flow starts.
    pub function: Option<&'a str>,
}

/// CTA_EXPECT_NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectNat {
    /// 0 for the original direction, 1 for the reply.
    pub direction: u32,
    /// The address and port to translate to.
    pub tuple: Tuple,
}

impl<'a> ExpectView<'a> {
    /// Walks the attributes of an expectation message once.
    ///
    /// # Errors
    /// The first malformed attribute.
    pub fn parse(family: u8, attrs: Attrs<'a>) -> Result<Self, ParseError> {
        let mut view = Self { family, ..Self::default() };
        for attr in attrs {
            view.read_attr(&attr?)?;
        }
        Ok(view)
    }

    /// Reads one attribute; ignores unknown ones.
    fn read_attr(&mut self, attr: &Attr<'a>) -> Result<(), ParseError> {
        match attr.kind {
            uapi::CTA_EXPECT_MASTER => self.master = Some(Tuple::parse(attr)?),
            uapi::CTA_EXPECT_TUPLE => self.tuple = Some(Tuple::parse(attr)?),
            uapi::CTA_EXPECT_MASK => self.mask = Some(Tuple::parse(attr)?),
            uapi::CTA_EXPECT_TIMEOUT => self.timeout = Some(attr.be32()?),
            uapi::CTA_EXPECT_ID => self.id = Some(attr.be32()?),
            uapi::CTA_EXPECT_HELP_NAME => self.helper = Some(attr.text()?),
            uapi::CTA_EXPECT_ZONE => self.zone = Some(attr.be16()?),
            uapi::CTA_EXPECT_FLAGS => self.flags = Some(attr.be32()?),
            uapi::CTA_EXPECT_CLASS => self.class = Some(attr.be32()?),
            uapi::CTA_EXPECT_NAT => self.nat = ExpectNat::parse(attr.nested())?,
            uapi::CTA_EXPECT_FN => self.function = Some(attr.text()?),
            _ => {}
        }
        Ok(())
    }

    /// Writes the attributes that [`ExpectView::parse`] reads, in the order of their numbers.
    ///
    /// # Errors
    /// [`Full`] where the buffer has no room.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            family: _, // the message's header has it
            tuple,
            mask,
            master,
            timeout,
            id,
            helper,
            zone,
            flags,
            class,
            nat,
            function,
        } = self;
        let tuples =
            [(uapi::CTA_EXPECT_MASTER, master), (uapi::CTA_EXPECT_TUPLE, tuple), (uapi::CTA_EXPECT_MASK, mask)];
        for (kind, tuple) in tuples {
            tuple.map_or(Ok(()), |tuple| tuple.write(writer, kind))?;
        }
        writer.be32_opt(uapi::CTA_EXPECT_TIMEOUT, *timeout)?;
        writer.be32_opt(uapi::CTA_EXPECT_ID, *id)?;
        helper.map_or(Ok(()), |name| writer.text(uapi::CTA_EXPECT_HELP_NAME, name))?;
        writer.be16_opt(uapi::CTA_EXPECT_ZONE, *zone)?;
        writer.be32_opt(uapi::CTA_EXPECT_FLAGS, *flags)?;
        writer.be32_opt(uapi::CTA_EXPECT_CLASS, *class)?;
        nat.map_or(Ok(()), |nat| nat.write(writer))?;
        function.map_or(Ok(()), |name| writer.text(uapi::CTA_EXPECT_FN, name))
    }
}

impl ExpectNat {
    /// Parses the nest; `None` where it has no tuple, so that the awaited flow is not translated.
    fn parse(attrs: Attrs<'_>) -> Result<Option<Self>, ParseError> {
        let (mut direction, mut tuple) = (0, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_EXPECT_NAT_DIR => direction = attr.be32()?,
                uapi::CTA_EXPECT_NAT_TUPLE => tuple = Some(Tuple::parse(&attr)?),
                _ => {}
            }
        }
        Ok(tuple.map(|tuple| Self { direction, tuple }))
    }

    /// Writes the nest.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.nest(uapi::CTA_EXPECT_NAT, |nest| {
            nest.be32(uapi::CTA_EXPECT_NAT_DIR, self.direction)?;
            self.tuple.write(nest, uapi::CTA_EXPECT_NAT_TUPLE)
        })
    }
}
