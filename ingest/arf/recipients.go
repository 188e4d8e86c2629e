package arf

import (
	netmail "net/mail"
	"slices"
	"strings"

	"carom/ingest/mime"
)

// maxCandidates is the number of candidates that are kept: each is tried against the token.
const maxCandidates = 100

// maxAddresses is the length of a To field that is read, in bytes. One that is longer names many, of
// which none is likely.
const maxAddresses = 2048

// Recipients returns the recipients that the report is about, as far as it says so: its own fields
// or, where they are blanked out (RFC 6590) or not there, the likeliest address in the header of the
// reported message. It returns nil if nothing names one.
func (r *Report) Recipients() []string {
	for _, named := range [][]string{r.OriginalRcptTo, r.RemovalRecipients} {
		if found := slices.DeleteFunc(slices.Clone(named), func(a string) bool { return !isAddress(a) }); len(found) > 0 {
			return found
		}
	}
	if len(r.Candidates) == 0 {
		return nil
	}
	likeliest := r.Candidates[0]
	for _, a := range r.Candidates {
		if !isBlank(a) {
			likeliest = a
			break
		}
	}
	return []string{likeliest}
}

// candidates returns the addresses in the header of a reported message that its recipient may be.
// What the provider adds to say so comes first; then the address that the sender wrote to, if it is
// one; then what servers on the way add.
func candidates(original mime.Header) []string {
	var found []string
	add := func(addresses ...string) {
		for _, a := range addresses {
			if isAddress(a) && !slices.Contains(found, a) && len(found) < maxCandidates {
				found = append(found, a)
			}
		}
	}
	add(original.Values("X-HmXmrOriginalRecipient")...) // Microsoft's JMRP
	to := addresses(original.Get("To"))
	if len(to) == 1 {
		add(to...)
	}
	// Yahoo; Postfix and qmail; Exim, and CommuniGate's; sendmail's -C
	for _, name := range []string{"X-Apparently-To", "Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "X-RCPT-To", "X-Original-Recipient", "Apparently-To"} {
		for _, value := range original.Values(name) {
			value, _, _ = strings.Cut(value, ";")
			add(address(value))
		}
	}
	for _, value := range original.Values("Received") { // RFC 5321 section 4.4: "for <ann@mail.example>;"
		if _, rest, ok := strings.Cut(value, " for "); ok {
			word, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			add(strings.Trim(word, "<>;,"))
		}
	}
	add(to...)
	return found
}

// addresses returns the addresses of a field that holds a list of them.
func addresses(value string) []string {
	if len(value) > maxAddresses {
		return nil
	}
	var found []string
	if list, err := netmail.ParseAddressList(value); err == nil {
		for _, a := range list {
			found = append(found, a.Address)
		}
		return found
	}
	// What RFC 5322 does not allow is read word by word.
	for word := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(" \t,;<>\"()", r) }) {
		if isAddress(word) {
			found = append(found, word)
		}
	}
	return found
}

// maxAddress is the longest address, in bytes: RFC 5321 section 4.5.3.1, with angle brackets none.
const maxAddress = 320

// isAddress reports whether a may be an address.
func isAddress(a string) bool {
	at := strings.LastIndexByte(a, '@')
	return at > 0 && at < len(a)-1 && len(a) <= maxAddress && !strings.ContainsAny(a, " \t\r\n<>,;")
}

// isBlank reports whether an address looks blanked out.
func isBlank(a string) bool {
	local, domain, _ := strings.Cut(strings.ToLower(a), "@")
	return strings.Contains(local, "redacted") || strings.Contains(domain, "redacted") || strings.Trim(local, "x*") == "" ||
		local == "hidden" || local == "undisclosed" || strings.HasPrefix(local, "undisclosed-")
}
