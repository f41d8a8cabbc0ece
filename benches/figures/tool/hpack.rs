//! A decoder for the header blocks of answers (RFC 7541), limited to the status of a call and its name. A block that only
//! refers to the table has the same bytes in every call, and is cached.

/// The length of every byte's Huffman code. The code is canonical, so that the lengths define it.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
/// The names of the static table, from index 1 on.
const NAMES: &str = ":authority :method :method :path :path :scheme :scheme :status :status :status :status :status \
    :status :status accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin \
    age allow authorization cache-control content-disposition content-encoding content-language content-length \
    content-location content-range content-type cookie date etag expect expires from host if-match if-modified-since \
    if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate \
    proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security \
    transfer-encoding user-agent vary via www-authenticate";
/// The index of `:status: 200`, the only value of the static table that matters here.
const STATUS_200: usize = 8;
/// The number of entries of the static table.
const STATIC: usize = 61;
/// The default size limit of the dynamic table, in bytes.
const CAPACITY: usize = 4096;

/// The decoded headers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Headers {
    /// Whether `:status` is 200.
    pub(crate) ok: bool,
    /// `grpc-status`, if present.
    pub(crate) grpc_status: Option<String>,
    /// `grpc-message`, for the message of a failure.
    pub(crate) grpc_message: Option<String>,
    /// `grpc-status-details-bin`, in base64.
    pub(crate) grpc_details: Option<String>,
    /// `x-request-id`, if present.
    pub(crate) request_id: Option<String>,
}

/// The decoder of one connection.
#[derive(Default)]
pub(crate) struct Decoder {
    /// The dynamic table, newest entry first.
    table: std::collections::VecDeque<(String, String)>,
    size: usize,
    cached: Vec<(Vec<u8>, Headers)>,
    /// The Huffman code, once a block has needed it.
    code: Option<Code>,
}

impl Decoder {
    pub(crate) fn decode(&mut self, block: &[u8]) -> &Headers {
        if let Some(place) = self.cached.iter().position(|(known, _)| known == block) {
            return &self.cached[place].1;
        }
        let headers = self.read(block);
        if block.iter().all(|byte| byte & 0x80 != 0) {
            self.cached.push((block.to_vec(), headers));
        } else {
            // The block may have changed the table that cached blocks refer to. No block is equal to an empty key.
            self.cached.clear();
            self.cached.push((Vec::new(), headers));
        }
        &self.cached[self.cached.len() - 1].1
    }

    fn read(&mut self, mut block: &[u8]) -> Headers {
        let mut headers = Headers::default();
        while let Some(&first) = block.first() {
            let (name, value) = if first & 0x80 != 0 {
                let index = integer(&mut block, 7);
                if index == STATUS_200 {
                    headers.ok = true;
                    continue;
                }
                self.entry(index)
            } else if first & 0xe0 == 0x20 {
                assert_eq!(integer(&mut block, 5), CAPACITY, "another table size");
                continue;
            } else {
                let is_indexed = first & 0x40 != 0;
                let index = integer(&mut block, if is_indexed { 6 } else { 4 });
                let name = if index == 0 { self.string(&mut block) } else { self.entry(index).0 };
                let value = self.string(&mut block);
                if is_indexed {
                    self.insert(name.clone(), value.clone());
                }
                (name, value)
            };
            match name.as_str() {
                "grpc-status" => headers.grpc_status = Some(value),
                "grpc-message" => headers.grpc_message = Some(value),
                "grpc-status-details-bin" => headers.grpc_details = Some(value),
                "x-request-id" => headers.request_id = Some(value),
                _ => {}
            }
        }
        headers
    }

    fn entry(&self, index: usize) -> (String, String) {
        if index <= STATIC {
            return (NAMES.split_whitespace().nth(index - 1).unwrap().to_owned(), String::new());
        }
        self.table[index - STATIC - 1].clone()
    }

    fn insert(&mut self, name: String, value: String) {
        self.size += name.len() + value.len() + 32;
        self.table.push_front((name, value));
        while self.size > CAPACITY {
            let (name, value) = self.table.pop_back().unwrap();
            self.size -= name.len() + value.len() + 32;
        }
    }

    fn string(&mut self, block: &mut &[u8]) -> String {
        let huffman = block[0] & 0x80 != 0;
        let length = integer(block, 7);
        let (bytes, rest) = block.split_at(length);
        *block = rest;
        String::from_utf8(if huffman { self.unpack(bytes) } else { bytes.to_vec() }).unwrap()
    }

    fn unpack(&mut self, bytes: &[u8]) -> Vec<u8> {
        let code = self.code.get_or_insert_with(Code::new);
        let (mut bits, mut length, mut text) = (0_u32, 0_usize, Vec::new());
        for byte in bytes {
            for bit in (0..8).rev() {
                (bits, length) = (bits << 1 | u32::from(byte >> bit & 1), length + 1);
                if let Some(byte) = code.byte(length, bits) {
                    text.push(byte);
                    (bits, length) = (0, 0);
                }
            }
        }
        text
    }
}

/// The canonical Huffman code: for each length, the first code, and the bytes in the order of their codes.
struct Code(Vec<(u32, Vec<u8>)>);

impl Code {
    fn new() -> Self {
        let mut first = 0;
        let of_length = |length: u8| {
            let bytes: Vec<u8> = (0..=255).filter(|byte| LENGTHS[usize::from(*byte)] == length).collect();
            let codes = (first, bytes);
            first = (first + u32::try_from(codes.1.len()).unwrap()) << 1;
            codes
        };
        Self((0..=30).map(of_length).collect())
    }

    /// The byte with this code of `length` bits.
    fn byte(&self, length: usize, bits: u32) -> Option<u8> {
        let (first, bytes) = &self.0[length];
        bytes.get(usize::try_from(bits.checked_sub(*first)?).ok()?).copied()
    }
}

/// Reads an integer with a prefix of `bits` bits.
fn integer(block: &mut &[u8], bits: u32) -> usize {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(block[0]) & most;
    *block = &block[1..];
    if value < most {
        return value;
    }
    let mut shift = 0;
    loop {
        let byte = block[0];
        *block = &block[1..];
        value += (usize::from(byte) & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}
