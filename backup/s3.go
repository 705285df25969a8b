package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3Store is a store in a bucket of an S3-compatible object store, which puts an
// object whole or not at all and lists what it has put.
type s3Store struct {
	client *minio.Client
	bucket string
	prefix string // ends with a slash unless empty
}

// s3Timeout bounds one object on its way, so that a store that hangs is a failure
// that is told and repeated, and not a backup that stands still.
const s3Timeout = 5 * time.Minute

// openS3 takes an address like
//
//	s3://bucket/prefix?endpoint=https://host:port&region=name
//
// Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
// AWS_SESSION_TOKEN), else from ~/.aws/credentials, else from the machine's role:
// never from the address, which is seen by ps.
func openS3(u *url.URL) (Store, error) {
	fail := func(why string) (Store, error) {
		return nil, fmt.Errorf("the archive's address is not like s3://bucket/prefix?endpoint=https://host&region=name: %s", why)
	}
	if u.User != nil {
		return fail("credentials are given by the environment, not in the address")
	}
	s := &s3Store{bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if s.bucket == "" {
		return fail("no bucket")
	}
	if s.prefix != "" {
		s.prefix += "/"
	}
	query := u.Query()
	for key := range query {
		if key != "endpoint" && key != "region" {
			return fail("it has a setting " + key)
		}
	}
	host, secure := "s3.amazonaws.com", true
	if given := query.Get("endpoint"); given != "" {
		e, err := url.Parse(given)
		if err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http" || strings.Trim(e.Path, "/") != "" {
			return fail("endpoint " + given)
		}
		host, secure = e.Host, e.Scheme == "https"
	}
	client, err := minio.New(host, &minio.Options{
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		}),
		Secure: secure, Region: query.Get("region"),
	})
	if err != nil {
		return nil, fmt.Errorf("the archive's address: %w", err)
	}
	s.client = client
	return s, nil
}

// String implements Store.
func (s *s3Store) String() string { return "s3://" + s.bucket + "/" + s.prefix }

// wrap says what was attempted, and that an object is missing in the way that
// callers ask for.
func (s *s3Store) wrap(what, name string, err error) error {
	var answer minio.ErrorResponse
	if errors.As(err, &answer) && answer.Code == minio.NoSuchKey {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return fmt.Errorf("%s %s in %s: %w", what, name, s, err)
}

// Put implements Store.
func (s *s3Store) Put(ctx context.Context, name string, data []byte) error {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s3Timeout)
	defer cancel()
	_, err := s.client.PutObject(ctx, s.bucket, s.prefix+name, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{
		ContentType: "application/octet-stream",
		// One request, whatever the size: an object is never assembled from parts.
		DisableMultipart: true,
	})
	if err != nil {
		return s.wrap("put", name, err)
	}
	return nil
}

// Get implements Store.
func (s *s3Store) Get(ctx context.Context, name string) (data []byte, err error) {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s3Timeout)
	defer cancel()
	o, err := s.client.GetObject(ctx, s.bucket, s.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, s.wrap("get", name, err)
	}
	data, err = io.ReadAll(io.LimitReader(o, MaxObjectBytes+1))
	if err = errors.Join(err, o.Close()); err != nil {
		return nil, s.wrap("get", name, err)
	}
	if len(data) > MaxObjectBytes {
		return nil, fmt.Errorf("get %s: larger than %d bytes", name, MaxObjectBytes)
	}
	return data, nil
}

// List implements Store.
func (s *s3Store) List(ctx context.Context, prefix string, fn func(Object) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the listing's goroutine on the way out
	defer cancel()
	for o := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
		if o.Err != nil {
			return s.wrap("list", prefix, o.Err)
		}
		name := strings.TrimPrefix(o.Key, s.prefix)
		if checkName(name) != nil {
			continue // not ours
		}
		if err := fn(Object{Name: name, Bytes: o.Size}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Delete implements Store.
func (s *s3Store) Delete(ctx context.Context, name string) error {
	if err := errors.Join(checkName(name), ctx.Err()); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if err := s.client.RemoveObject(ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{}); err != nil {
		return s.wrap("delete", name, err)
	}
	return nil
}
