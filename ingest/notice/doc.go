// Package notice reads notices about deliveries that no machine part accompanies (ingest/dsn reads
// the others): the bounces of qmail, Exim, Exchange, Domino, Gmail, webmail providers and whatever
// else writes a text for people when mail can't be delivered.
//
// What makes a notice is evidence: rules find phrases in the sender's name, the subject, the names of
// the header's fields and the text, and each gives or takes points. The header alone must give some,
// for everybody may write about bounces. The recipients are the addresses that stand where notices
// put them (alone on a line, behind a label, in X-Failed-Recipients), the reason is the text or the
// SMTP reply beside each, and where the message that comes back begins, the notice ends.
//
// Rules are data, in rules.txt. Format: "[id]" begins a rule, each further line is a word and its
// value, "#" begins a comment line.
//
//	text, subject, from, mailer, field
//	          a phrase, and where it is looked for: the text, the subject, name and address of From,
//	          X-Mailer or User-Agent. Lower-case, with single blanks; "~" at an end is the edge of a
//	          word. field is the name of a field that the header has
//	says      failed, delayed, delivered: what became of the message;
//	          notice: one of the three, or the name of a program that says so (the default);
//	          automatic: an answer on behalf of a person or a list, which is no notice;
//	          recipient, stranger: the address behind the phrase is one that the notice is about, or
//	          is not; reply: the reason stands behind it; returned: the returned message follows
//	weight    points (optional; default: rules.go's weights)
//	status    what the phrase means in a reason that has no code at all (optional)
//	family    the product whose notices alone have the phrase (optional); evaluation leaves it out
//	          to see how its notices fare as those of a stranger
//	source    who writes it: product and file, provider, RFC
//	yes, no   what the rule matches and doesn't, at least one each
//
// A message that is no notice gives an *AutomaticError or ErrNotNotice. The first 64 KiB of the text and 2000 addresses
// count. Nothing here panics, keeps state or touches network, disk or clock; everything is safe for
// concurrent use.
package notice
