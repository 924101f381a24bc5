#!/usr/bin/env python3
"""Write `tokenizer.json` files of every kind that the tokenizers library knows, with what it makes of random texts.

    python tools/tokenizer_suite.py OUT [small] [charsmap.bin]      (needs the `tokenizers` package)

OUT/texts.json; for each NAME: NAME.tokenizer.json; NAME.expect.json, a row for each text: ids with and without special
tokens, ids with special tokens taken as text, and the first decoded without and with special tokens; NAME.decode.json:
random ids decoded. `small` writes the part that is committed in crates/tokenizer/tests/suite. charsmap.bin: the
`precompiled_charsmap` of a SentencePiece model, for XLM-R's normalizer.
"""
import base64, json, os, pathlib, random, sys
from tokenizers import *
from tokenizers import models,normalizers,pre_tokenizers,decoders,processors,trainers
random.seed(1)
out = sys.argv[1]
small = "small" in sys.argv[2:]
charsmap = [a for a in sys.argv[2:] if a != "small"]
words = """the a one little big old happy sad blue red green bird dog cat girl boy mother house tree river stone light feather
fly fell ran saw said asked made found liked wanted could would should because before after with without under over again
morning evening tomorrow computer number machine memory answer question story window garden water friend school market""".split()
def sentence():
    w = [random.choice(words) for _ in range(random.randrange(4, 14))]
    return w[0].capitalize() + " " + " ".join(w[1:]) + random.choice([".", "!", "?", ", too.", "; no.", " (really)."])
lines = [" ".join(sentence() for _ in range(3)) for _ in range(400)]
extra=["Ünïcödé façade naïve — “quotes” 漢字かな交じり文 한국어 텍스트 русский текст עברית العربية हिन्दी ไทย 123 456,789 3.14 foo_bar() {x: [1,2]} <tag> https://a.b/c?d=e&f 😀🎉👨‍👩‍👧 ½ ① Ⅷ ﬁ ½"]*20
corp=lines+extra
def train(model,tr,norm=None,pre=None):
    t=Tokenizer(model)
    if norm: t.normalizer=norm
    if pre: t.pre_tokenizer=pre
    t.train_from_iterator(corp,tr); return t
S={}
BL=pre_tokenizers.ByteLevel.alphabet()
def bl(pre,n=320 if small else 1500,sp=["<|endoftext|>"]): return train(models.BPE(),trainers.BpeTrainer(vocab_size=n,special_tokens=sp,initial_alphabet=BL,show_progress=False),None,pre)
t=bl(pre_tokenizers.ByteLevel(add_prefix_space=False)); t.decoder=decoders.ByteLevel(); t.post_processor=processors.ByteLevel(trim_offsets=False); S['gpt2']=t
def split(rx,beh='isolated',inv=False): return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rx),beh,inv),pre_tokenizers.ByteLevel(add_prefix_space=False,use_regex=False)])
RX={'llama3':r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
'qwen2':r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
'o200k':r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
'tekken':r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
'qwen35':r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
'odd':r"\b\w+\b|[^\w\s]+?|(?<=a)\s",
'bailing':r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"}
for k,r in RX.items():
    t=bl(split(r)); t.decoder=decoders.ByteLevel(); S['split_'+k]=t
t=Tokenizer.from_str(S['split_llama3'].to_str()); t.add_special_tokens(["<|begin_of_text|>","<|eot_id|>","<|start_header_id|>"]); b=t.token_to_id("<|begin_of_text|>")
t.post_processor=processors.Sequence([processors.ByteLevel(trim_offsets=False),processors.TemplateProcessing(single="<|begin_of_text|> $A",pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",special_tokens=[("<|begin_of_text|>",b)])]); S['llama3_bos']=t
d=json.loads(t.to_str()); d['model']['ignore_merges']=True; S['llama3_ignore']=Tokenizer.from_str(json.dumps(d))
t=bl(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),pre_tokenizers.ByteLevel(add_prefix_space=False)])); t.decoder=decoders.ByteLevel(); S['starcoder']=t
t=bl(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{N}{1,3}"),'isolated'),pre_tokenizers.Split(Regex("[一-龥぀-ゟ゠-ヿ]+"),'isolated'),pre_tokenizers.Split(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),'isolated'),pre_tokenizers.ByteLevel(add_prefix_space=False,use_regex=False)])); t.decoder=decoders.ByteLevel(); S['deepseek3']=t
t=bl(pre_tokenizers.ByteLevel(add_prefix_space=True),sp=["<s>","<pad>","</s>","<unk>","<mask>"]); t.decoder=decoders.ByteLevel(); t.post_processor=processors.RobertaProcessing(("</s>",2),("<s>",0)); t.add_special_tokens([AddedToken("<mask>",lstrip=True,special=True)]); S['roberta']=t
t=bl(pre_tokenizers.ByteLevel(add_prefix_space=False)); t.normalizer=normalizers.NFC(); t.decoder=decoders.ByteLevel(); t.add_tokens([AddedToken("  ",normalized=True),AddedToken("foo",single_word=True),AddedToken("bar",rstrip=True),AddedToken("İx",normalized=True),AddedToken("   ",normalized=False)]); S['neox']=t
# llama-like
def llama(norm,pre,dec,fuse=True,n=420 if small else 1200):
    bytes_=["<unk>","<s>","</s>"]+["<0x%02X>"%i for i in range(256)]
    tt=train(models.BPE(unk_token="<unk>",fuse_unk=fuse,byte_fallback=True),trainers.BpeTrainer(vocab_size=n,special_tokens=bytes_,show_progress=False,limit_alphabet=120),normalizers.Sequence([normalizers.Prepend("▁"),normalizers.Replace(" ","▁")]),pre_tokenizers.Split("▁","merged_with_next"))
    d=json.loads(tt.to_str()); d['pre_tokenizer']=None
    d['added_tokens']=[a for a in d['added_tokens'] if a['id']<3]
    t=Tokenizer.from_str(json.dumps(d)); 
    if norm is not False: t.normalizer=norm
    if pre is not None: t.pre_tokenizer=pre
    t.decoder=dec; return t
seq=decoders.Sequence
ld=seq([decoders.Replace("▁"," "),decoders.ByteFallback(),decoders.Fuse(),decoders.Strip(" ",1,0)])
t=llama(False,None,ld); t.post_processor=processors.TemplateProcessing(single="<s> $A",pair="<s> $A <s>:1 $B:1",special_tokens=[("<s>",1)]); S['llama2']=t
d=json.loads(t.to_str()); d['normalizer']=None; d['pre_tokenizer']={"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":False}; S['llama2_new']=Tokenizer.from_str(json.dumps(d))
d['pre_tokenizer']={"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":True}; d['decoder']={"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":True}; S['metaspace_always']=Tokenizer.from_str(json.dumps(d))
d['model']['byte_fallback']=False; S['bpe_unk_fuse']=Tokenizer.from_str(json.dumps(d)); d['model']['fuse_unk']=False; S['bpe_unk_nofuse']=Tokenizer.from_str(json.dumps(d)); d['model']['unk_token']=None; S['bpe_drop']=Tokenizer.from_str(json.dumps(d))
d=json.loads(S['llama2'].to_str()); d['normalizer']={"type":"Replace","pattern":{"String":" "},"content":"▁"}; d['pre_tokenizer']={"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":False}; d['decoder']={"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]}; S['gemma']=Tokenizer.from_str(json.dumps(d))
# clip-like suffix
t=train(models.BPE(unk_token="<unk>",end_of_word_suffix="</w>"),trainers.BpeTrainer(vocab_size=260 if small else 1200,special_tokens=["<unk>"],end_of_word_suffix="</w>",show_progress=False),normalizers.Sequence([normalizers.NFC(),normalizers.Replace(Regex(r"\s+")," "),normalizers.Lowercase()]),pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"),'removed',True)); t.decoder=decoders.BPEDecoder("</w>"); S['clip']=t
t=train(models.BPE(unk_token="<unk>",continuing_subword_prefix="##"),trainers.BpeTrainer(vocab_size=260 if small else 1200,special_tokens=["<unk>"],continuing_subword_prefix="##",show_progress=False),None,pre_tokenizers.Whitespace()); t.decoder=decoders.WordPiece("##"); S['bpe_prefix']=t
# bert
def bert(norm): 
    t=train(models.WordPiece(unk_token="[UNK]"),trainers.WordPieceTrainer(vocab_size=260 if small else 1500,special_tokens=["[PAD]","[UNK]","[CLS]","[SEP]","[MASK]"],show_progress=False),norm,pre_tokenizers.BertPreTokenizer())
    t.decoder=decoders.WordPiece("##"); t.post_processor=processors.TemplateProcessing(single="[CLS] $A [SEP]",pair="[CLS] $A [SEP] $B:1 [SEP]:1",special_tokens=[("[CLS]",2),("[SEP]",3)]); return t
S['bert']=bert(normalizers.BertNormalizer()); S['bert_cased']=bert(normalizers.BertNormalizer(lowercase=False)); t=bert(normalizers.BertNormalizer(lowercase=True,strip_accents=False)); t.post_processor=processors.BertProcessing(("[SEP]",3),("[CLS]",2)); t.decoder=decoders.WordPiece("##",cleanup=False); S['bert_accents']=t
# unigram
U=lambda n,pre,norm=None,bf=False: train(models.Unigram(),trainers.UnigramTrainer(vocab_size=n,special_tokens=["<pad>","</s>","<unk>"],unk_token="<unk>",show_progress=False),norm,pre)
t=U(200 if small else 1200,pre_tokenizers.Metaspace()); t.decoder=decoders.Metaspace(); t.post_processor=processors.TemplateProcessing(single="$A </s>",pair="$A </s> $B </s>",special_tokens=[("</s>",1)]); S['t5']=t
if charsmap:
    d=json.loads(t.to_str()); d['normalizer']={"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":base64.b64encode(pathlib.Path(charsmap[0]).read_bytes()).decode()},{"type":"Strip","strip_left":False,"strip_right":True},{"type":"Replace","pattern":{"Regex":" {2,}"},"content":"▁"}]}; S['xlmr']=Tokenizer.from_str(json.dumps(d))
d=json.loads(t.to_str()); v=d['model']['vocab']; v+= [["<0x%02X>"%i,-20.0] for i in range(256)]; d['model']['byte_fallback']=True; S['unigram_bytes']=Tokenizer.from_str(json.dumps(d))
d=json.loads(t.to_str()); d['normalizer']={"type":"Nmt"}; d['pre_tokenizer']={"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},{"type":"UnicodeScripts"},{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":True}]}; S['scripts']=Tokenizer.from_str(json.dumps(d))
t=train(models.WordLevel(unk_token="[UNK]"),trainers.WordLevelTrainer(vocab_size=200 if small else 3000,special_tokens=["[UNK]"],show_progress=False),normalizers.Sequence([normalizers.NFKD(),normalizers.StripAccents(),normalizers.Lowercase()]),pre_tokenizers.Whitespace()); S['wordlevel']=t
d=json.loads(t.to_str())
PT={'punct':[{"type":"Punctuation","behavior":b} for b in ["Isolated","Removed","MergedWithPrevious","MergedWithNext","Contiguous"]],'digits':[{"type":"Digits","individual_digits":False}],'fixed':[{"type":"FixedLength","length":3}],'ws':[{"type":"WhitespaceSplit"}],'delim':[{"type":"CharDelimiterSplit","delimiter":"e"}]}
for k,l in PT.items():
    for i,p in enumerate(l):
        for base in ('llama2','wordlevel'):
            dd=json.loads(S[base].to_str()); dd['pre_tokenizer']=p
            try: S[f'{base}_{k}{i}']=Tokenizer.from_str(json.dumps(dd))
            except Exception as e: print(k,i,e)
for nm in ["NFC","NFD","NFKC","NFKD","Nmt","Lowercase","StripAccents","ByteLevel"]:
    dd=json.loads(S['gpt2'].to_str()); dd['normalizer']={"type":nm}
    if nm=='ByteLevel': dd['pre_tokenizer']=None
    S['norm_'+nm]=Tokenizer.from_str(json.dumps(dd))
dd=json.loads(S['gpt2'].to_str()); dd['normalizer']={"type":"Strip","strip_left":True,"strip_right":True}; S['norm_strip']=Tokenizer.from_str(json.dumps(dd))
dd=json.loads(S['wordlevel'].to_str()); dd['decoder']={"type":"CTC","pad_token":"the","word_delimiter_token":"a","cleanup":True}; S['ctc']=Tokenizer.from_str(json.dumps(dd))
pool=[lambda:random.choice(lines)[:200],lambda:''.join(chr(random.choice([random.randrange(32,127),random.randrange(0xa0,0x250),random.randrange(0x300,0x370),random.randrange(0x370,0x600),random.randrange(0x900,0xe80),random.randrange(0x1e00,0x2100),random.randrange(0x2190,0x2bff),random.randrange(0x3000,0x3100),random.randrange(0x4e00,0x9fff),random.randrange(0xac00,0xd7a3),random.randrange(0xf900,0x10000) ,random.randrange(0x1f300,0x1f6ff),random.choice([9,10,13,32,32,0x20,0xa0,0x2003,0x200d,0x85,0x3000,0xfffd,0,1,0x2028,0x1680])])) for _ in range(random.randrange(1,40))),
lambda:''.join(random.choice([" ","  ","\n","\r\n","\t","'s","'LL","'ſ","a","B","É","é","e\u0301","1","23","٣","½",".","!?","-","_","漢","字","<s>","</s>","<|endoftext|>","<mask>","[MASK]","[CLS]","<unk>","foo","foobar","bar ","İx","hello","World","HTTPServer","'t","▁","<0x41>","\u200d","😀","ﬁ","ǅ","\u3000","</w>","##ing","ß","ΑΣ","it's"]) for _ in range(random.randrange(1,25)))]
texts=[""," ","  ","\n"," a","a "," a b"]+[random.choice(pool)() for _ in range(400)]
texts=[x.encode('utf8','ignore').decode() for x in texts]
if small:
    keep = "gpt2 split_llama3 split_o200k llama3_bos deepseek3 roberta neox llama2 llama2_new gemma clip bert t5 unigram_bytes wordlevel wordlevel_punct4".split()
    S = {k: S[k] for k in keep}
    texts = texts[:60]
os.makedirs(out, exist_ok=True)
json.dump(texts,open(out+'/texts.json','w'),separators=(',',':'))
for k,t in S.items():
    t.save(f'{out}/{k}.tokenizer.json',pretty=False)
    t=Tokenizer.from_file(f'{out}/{k}.tokenizer.json')
    E=[]
    for x in texts:
        try: a=t.encode(x,add_special_tokens=True).ids
        except Exception as e: a=None
        try: b=t.encode(x,add_special_tokens=False).ids
        except Exception as e: b=None
        t.encode_special_tokens=True
        try: c=t.encode(x,add_special_tokens=False).ids
        except Exception as e: c=None
        t.encode_special_tokens=False
        try: dd=[t.decode(a,skip_special_tokens=True),t.decode(a,skip_special_tokens=False)] if a is not None and len(a) else None
        except BaseException as e: dd=None
        E.append([a,b,c,dd])
    json.dump(E,open(f'{out}/{k}.expect.json','w'),separators=(',',':'))
    # random ids decoding
    n=t.get_vocab_size(); R=[]
    for _ in range(20 if small else 60):
        ids=[random.randrange(n+3) for _ in range(random.randrange(1,20))] if random.random()<.5 else [random.choice(list(range(3,min(259,n)))) for _ in range(random.randrange(1,12))]
        try: R.append([ids,t.decode(ids,skip_special_tokens=True),t.decode(ids,skip_special_tokens=False)])
        except BaseException as e: pass
    json.dump(R,open(f'{out}/{k}.decode.json','w'),separators=(',',':'))
print(len(S),'tokenizers,',len(texts),'texts')
