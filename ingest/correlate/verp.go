package correlate

import "strings"

// VERP is what a plain variable envelope return path says: an address such as
// news-ann=mail.example@shop.example, to which the mail for ann@mail.example has its bounces sent.
// PowerMTA writes it with "-"; with "+" it is common too. Anybody can write one.
type VERP struct {
	Recipient  string
	Originator string // the return path without the recipient
}

// maxVERPs bounds the readings of one return path.
const maxVERPs = 8

// ParseVERP returns the readings of a return path, the likeliest first: where the originator ends
// cannot be told if its local part, or the recipient's, holds the separator too. There are none if
// the address is no VERP. BATV and SRS addresses, which have an equals sign for another reason, are
// none.
func ParseVERP(address string) []VERP {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return nil
	}
	local, own := address[:at], address[at+1:]
	equals := strings.LastIndexByte(local, '=')
	if equals < 0 || len(address) > maxVERP || !isDomain(local[equals+1:]) || !isDomain(own) || isRewritten(local) {
		return nil
	}
	var found []VERP
	for _, separator := range []byte{'+', '-'} {
		for i := 1; i < equals-1 && len(found) < maxVERPs; i++ {
			if local[i] == separator {
				found = append(found, VERP{local[i+1:equals] + "@" + local[equals+1:], local[:i] + "@" + own})
			}
		}
	}
	return found
}

// maxVERP is the longest return path that is read, in octets: RFC 5321 section 4.5.3.1.3 allows 256.
// Its local part of 64 octets is too short for the whole address of many a recipient, and mailers
// do not insist on it.
const maxVERP = 320

// isRewritten reports whether a local part is one that a mailer on the way has made (BATV, SRS).
func isRewritten(local string) bool {
	for _, prefix := range []string{"prvs=", "btv1=", "srs0", "srs1"} {
		if len(local) >= len(prefix) && strings.EqualFold(local[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}

// isDomain reports whether s looks like a domain name of more than one label.
func isDomain(s string) bool {
	dot := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if i == 0 || i == len(s)-1 || s[i-1] == '.' {
				return false
			}
			dot = true
		case c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80:
		default:
			return false
		}
	}
	return dot
}
