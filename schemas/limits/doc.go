// Package limits is the contract between the control loop and a node: the limits document, which
// the node's agent writes and the sender watches, and the pure rules by which a sender turns the
// document, its own configuration and the replies it sees into the limit that binds.
//
// A Limit says "unlimited" by +Inf and Unlimited, never by 0: PowerMTA's 0 for "unlimited" is
// translated once, by Static. A limit of 0 lets nothing through.
//
// Decode is strict: an unknown field, another format, a rate that is no number, a key that comes
// twice are errors, and the reader keeps the document that it has. Guard, Glide and Merge know no
// clock; time is a time.Duration since an arbitrary start, on a clock that never jumps. They are
// not safe for concurrent use; everything else is.
package limits
