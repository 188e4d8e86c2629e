// Package classify says what a receiver means: it turns an SMTP reply, a diagnostic of a bounce
// message or a local error into a category, a class, a dimension and a scope (schemas/taxonomy).
//
// The decision goes from what tells most to what tells least, and each step has its rule ids:
//
//  1. local errors and success ("local.dns-not-found", "code.2yz")
//  2. rules on the text, in the order of rules/ ("google.rate-ip", "unknown-user")
//  3. an enhanced status code that names a cause ("status.5.1.1"; IANA's registry by RFC 5248)
//  4. weak rules on the text: words that say little
//  5. an enhanced status code that only names a field ("status.5.7.1")
//  6. the reply code and the phase ("code.552"; RFC 5321, section 4.2.3)
//
// A 4yz reply is never hard, unless who reports it has given up. Rules are data, in the folder rules; Version changes whenever a verdict can.
//
// The rules' files are read in the order receivers.txt, filters.txt, general.txt. Their format:
// "[id]" begins a rule, each further line is a word and its value, "#" begins a comment line.
//
//	match     a pattern; the rule matches if one of its patterns does
//	provider  only for this receiving provider (optional; default: any)
//	when      4 or 5: not if the reply is known to be permanent or transient (optional)
//	code      only with one of these reply codes (optional)
//	phase     only in one of these phases, by event.Phase's names, or none where it is not known (optional)
//	status    only with one of these enhanced codes, as subject.detail or subject.from-to (optional)
//	weak      step 4 and not step 2 (optional)
//	category  the verdict
//	dimension the verdict's dimension (optional; default: the category's)
//	scope     whom the reply is aimed at (optional; default: the category's)
//	source    who documents it: provider's page, product, RFC
//	yes, no   a reply that the rule decides, and one that it doesn't match; at least one each
//
// A line "words name a|b|c" before a rule names a family of words: "{name}" in later patterns stands
// for its choices.
//
// Patterns stand for text as fold and mask leave it: lower case, without accents, each run of blanks
// one, and without the names in mail addresses and before bracketed IP addresses.
// "*" is up to 120 bytes of anything, "%" up to 30, "#" a digit, "~" the edge of a word, "(a|b|)" a
// choice. All else is itself.
//
// All patterns are looked for in one pass over the text (Aho-Corasick over the longest literal of
// each); only those found there are compared. Time is linear in the text, of which the first
// 4096 bytes count. Nothing here panics on any input, keeps state or touches network, disk or
// clock (Command apart, which reads and writes its streams); everything is safe for concurrent use.
package classify
