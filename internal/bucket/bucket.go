// Package bucket speaks to object storage by the S3 protocol: whole objects go in as streams and are checked, come out
// with Seek and constant memory, and every trouble has its own sentence and remedy.
//
// Errors are faults of the kind Unavailable, with the codes bucket_missing, bucket_denied, bucket_key, bucket_secret,
// bucket_token, bucket_clock, bucket_region, bucket_busy, bucket_unreachable, bucket_certificate, bucket_protocol,
// bucket_damaged, bucket_replaced and disk_full; ErrMissing is the error of a key that is not there.
package bucket

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// ErrMissing says that a key is not there.
var ErrMissing = errors.New("the bucket has no such key")

// Bucket is a bucket, or what is below a prefix of one. It is safe for concurrent use.
type Bucket struct {
	address Address
	core    *minio.Core
	log     *slog.Logger
	own     *http.Transport // nil: it was handed in
	idle    time.Duration   // how long a body may give nothing
	parts   sync.Pool       // of *[]byte with partSize

	opaque atomic.Bool // its ETags are no MD5 of what is stored
}

// Options are what a bucket may need beside its address.
type Options struct {
	Transport http.RoundTripper // nil: one of its own, with timeouts
	Retries   int               // how often a request is tried again; 0: 4
	Idle      time.Duration     // a body that gives nothing for so long is asked for again; 0: 30 s
	Log       *slog.Logger      // may be nil
}

// Info is what is known of a key.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time
	ETag     string
}

// Open returns the bucket at an address. Nothing is asked of it yet, but the keys are read.
func Open(a Address, o Options) (*Bucket, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Retries == 0 {
		o.Retries = 4
	}
	if o.Idle == 0 {
		o.Idle = 30 * time.Second
	}
	key, secret, token, err := a.keys()
	if err != nil {
		return nil, err
	}
	b := &Bucket{address: a, log: o.Log, idle: o.Idle}
	b.parts.New = func() any { p := make([]byte, partSize); return &p }
	if o.Transport == nil {
		b.own = transport()
		o.Transport = b.own
	}
	b.core, err = minio.NewCore(a.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(key, secret, token), Secure: !a.Plain, Region: a.Region,
		Transport: o.Transport, MaxRetries: o.Retries + 1,
	})
	if err != nil {
		return nil, wrongAddress("The endpoint is not usable.")
	}
	return b, nil
}

func transport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   32,
		DisableCompression:    true,
	}
}

// Close closes idle connections.
func (b *Bucket) Close() error {
	if b.own != nil {
		b.own.CloseIdleConnections()
	}
	return nil
}

// Address returns where the bucket is.
func (b *Bucket) Address() Address { return b.address }

// name is the whole name of a key.
func (b *Bucket) name(key string) string {
	if b.address.Prefix == "" {
		return key
	}
	return b.address.Prefix + "/" + key
}

// key is what name is called here; false: it is not below the prefix.
func (b *Bucket) key(name string) (string, bool) {
	if b.address.Prefix == "" {
		return name, true
	}
	return strings.CutPrefix(name, b.address.Prefix+"/")
}

// Stat says what is known of a key.
func (b *Bucket) Stat(ctx context.Context, key string) (Info, error) {
	info, err := b.core.StatObject(ctx, b.address.Bucket, b.name(key), minio.StatObjectOptions{})
	if err != nil {
		return Info{}, b.trouble(ctx, "look for an object", err)
	}
	return Info{Key: key, Size: info.Size, Modified: info.LastModified, ETag: info.ETag}, nil
}

// Delete forgets a key. One that is not there is no error.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	err := b.trouble(ctx, "delete an object", b.core.RemoveObject(ctx, b.address.Bucket, b.name(key), minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrMissing) {
		return nil
	}
	return err
}

// Each calls f with every key that begins with prefix, until f returns an error, which Each then returns.
func (b *Bucket) Each(ctx context.Context, prefix string, f func(Info) error) error {
	ctx, stop := context.WithCancel(ctx) // ends what the library has begun when f has enough
	defer stop()
	for o := range b.core.ListObjectsIter(ctx, b.address.Bucket, minio.ListObjectsOptions{Prefix: b.name(prefix), Recursive: true}) {
		if o.Err != nil {
			return b.trouble(ctx, "list objects", o.Err)
		}
		key, ok := b.key(o.Key)
		if !ok || strings.HasSuffix(key, "/") { // folders that consoles make
			continue
		}
		if err := f(Info{Key: key, Size: o.Size, Modified: o.LastModified, ETag: o.ETag}); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Sweep ends uploads below prefix that were begun before olderThan and never ended, and returns how many. Their parts
// are stored, and paid for, until then.
func (b *Bucket) Sweep(ctx context.Context, prefix string, olderThan time.Time) (int, error) {
	gone := 0
	for key, id := "", ""; ; {
		page, err := b.core.ListMultipartUploads(ctx, b.address.Bucket, b.name(prefix), key, id, "", 1000)
		err = b.trouble(ctx, "list unfinished uploads", err)
		if errors.Is(err, ErrMissing) { // some servers call none so
			return gone, nil
		}
		if err != nil {
			return gone, err
		}
		for _, u := range page.Uploads {
			if !u.Initiated.Before(olderThan) {
				continue
			}
			err := b.trouble(ctx, "end an unfinished upload", b.core.AbortMultipartUpload(ctx, b.address.Bucket, u.Key, u.UploadID))
			if err != nil && !errors.Is(err, ErrMissing) {
				return gone, err
			}
			gone++
		}
		if !page.IsTruncated || page.NextKeyMarker == "" {
			return gone, nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
