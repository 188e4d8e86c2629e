package mime

import "bytes"

// The object identifiers of RFC 5652 sections 5.1 and 4 in DER, with tag and length.
var (
	signedDataOID = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}
	dataOID       = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01}
)

// Tags of X.690 that are met on the way to the content.
const (
	tagOctets            = 0x04
	tagOctetsConstructed = 0x24
	tagExplicit0         = 0xa0
)

// signed returns the content of a message that is signed opaquely (RFC 8551 section 3.5.2), as gateways
// do that sign all that leaves them. The signature is not looked at: reports are not believed.
func (m *Message) signed() (content []byte, ok bool) {
	if len(m.Parts) != 1 || m.MediaType != "application/pkcs7-mime" && m.MediaType != "application/x-pkcs7-mime" {
		return nil, false
	}
	body := m.Parts[0].Body
	const outer = 64 // the object identifier stands behind two lengths
	if !bytes.Contains(body[:min(len(body), outer)], signedDataOID) {
		return nil, false
	}
	_, body, found := bytes.Cut(body, dataOID)
	if !found {
		return nil, false
	}
	tag, body, _, ok := element(body)
	if !ok || tag != tagExplicit0 {
		return nil, false
	}
	switch tag, body, _, ok = element(body); {
	case !ok:
		return nil, false
	case tag == tagOctets:
		return body, len(body) > 0
	case tag != tagOctetsConstructed:
		return nil, false
	}
	for { // the content in pieces
		tag, piece, rest, ok := element(body)
		if !ok || tag != tagOctets {
			return content, len(content) > 0
		}
		content = append(content, piece...)
		body = rest
	}
}

// element returns the tag of the element at the beginning of b, its content and what follows it, X.690
// section 8.1. The content of one whose length is indefinite is all that follows; that of one that is
// cut is what is there.
func element(b []byte) (tag byte, content, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, nil, false
	}
	tag, length, b := b[0], int(b[1]), b[2:]
	if length == 0x80 {
		return tag, b, nil, true
	}
	if length > 0x80 {
		n := length - 0x80
		if n > 3 || n > len(b) { // 16 MiB and more are no report
			return 0, nil, nil, false
		}
		length = 0
		for _, octet := range b[:n] {
			length = length<<8 | int(octet)
		}
		b = b[n:]
	}
	length = min(length, len(b))
	return tag, b[:length], b[length:], true
}
