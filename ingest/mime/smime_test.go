package mime

import (
	"bytes"
	"encoding/base64"
	"slices"
	"testing"
)

// tlv returns an element of X.690 with a definite length.
func tlv(tag byte, content ...[]byte) []byte {
	joined := slices.Concat(content...)
	return slices.Concat([]byte{tag, 0x82, byte(len(joined) >> 8), byte(len(joined))}, joined)
}

// open returns an element whose length is indefinite.
func open(tag byte, content ...[]byte) []byte {
	return slices.Concat([]byte{tag, 0x80}, slices.Concat(content...), []byte{0, 0})
}

func TestOpaquelySigned(t *testing.T) {
	const inner = "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\n--b--\r\n"
	version, signers := []byte{2, 1, 1}, []byte{0x31, 0}
	middle := len(inner) / 2
	for _, tc := range []struct {
		name string
		body []byte
		ok   bool
	}{
		{"definite lengths", tlv(0x30, signedDataOID, tlv(0xa0, tlv(0x30, version, signers, tlv(0x30, dataOID, tlv(0xa0, tlv(4, []byte(inner)))), signers))), true},
		{"a stream", open(0x30, signedDataOID, open(0xa0, open(0x30, version, signers, open(0x30, dataOID, open(0xa0, open(0x24, tlv(4, []byte(inner[:middle])), tlv(4, []byte(inner[middle:]))))), signers))), true},
		{"cut", tlv(0x30, signedDataOID, tlv(0xa0, tlv(0x30, version, signers, tlv(0x30, dataOID, tlv(0xa0, tlv(4, []byte(inner)))))))[:len(inner)+40], true},
		{"enveloped", tlv(0x30, dataOID, tlv(0xa0, tlv(4, []byte(inner)))), false},
		{"without content", tlv(0x30, signedDataOID, tlv(0xa0, tlv(0x30, version, signers, tlv(0x30, dataOID)))), false},
		{"a length too long", append(slices.Concat(tlv(0x30, signedDataOID), dataOID), 0xa0, 0x84, 0xff, 0xff, 0xff, 0xff), false},
		{"no ASN.1", []byte("hello"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mail := "From: a@b.example\r\nContent-Type: application/x-pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString(tc.body) + "\r\n"
			m, err := Parse([]byte(mail), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			part := m.Part("message/delivery-status")
			if (part != nil) != tc.ok || m.Header.Get("From") != "a@b.example" {
				t.Fatalf("%s, %d parts", m.MediaType, len(m.Parts))
			}
			if tc.ok && !bytes.Contains(part.Body, []byte("Action:")) {
				t.Errorf("body %q", part.Body)
			}
		})
	}
}

func FuzzSigned(f *testing.F) {
	f.Add(tlv(0x30, signedDataOID, tlv(0xa0, dataOID, tlv(0xa0, tlv(4, []byte("A: b\r\n\r\nc"))))))
	f.Add(open(0x30, signedDataOID, dataOID, open(0xa0, open(0x24, tlv(4, []byte("A: b")), tlv(4, []byte("\n\nc"))))))
	f.Fuzz(func(t *testing.T, body []byte) {
		m := &Message{MediaType: "application/pkcs7-mime", Parts: []Part{{Body: body}}}
		if content, ok := m.signed(); ok && (len(content) == 0 || len(content) > len(body)) {
			t.Fatalf("content of %d bytes from %d", len(content), len(body))
		}
	})
}
