// vocab.gguf texts.bin(u32 n; {u32 len; bytes}) -> lines: ids for (add,parse) in 00,10,11 ; then EOG/attr dump
#include "llama.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
static void quiet(enum ggml_log_level l,const char*t,void*u){(void)u;if(l==GGML_LOG_LEVEL_ERROR)fputs(t,stderr);}
int main(int c,char**v){llama_log_set(quiet,NULL);llama_backend_init();struct llama_model_params p=llama_model_default_params();p.vocab_only=true;
struct llama_model*m=llama_model_load_from_file(v[1],p);if(!m){puts("LOADFAIL");return 1;}const struct llama_vocab*vo=llama_model_get_vocab(m);
FILE*f=fopen(v[2],"rb");uint32_t n;fread(&n,4,1,f);static llama_token ids[1<<20];
for(uint32_t i=0;i<n;i++){uint32_t len;fread(&len,4,1,f);char*b=malloc(len+1);fread(b,1,len,f);b[len]=0;
for(int k=0;k<3;k++){int r=llama_tokenize(vo,b,len,ids,1<<20,k>0,k>1);for(int j=0;j<r;j++)printf(j?" %d":"%d",ids[j]);puts("");}
free(b);}
printf("EOG");for(int i=0;i<llama_vocab_n_tokens(vo);i++)if(llama_vocab_is_eog(vo,i))printf(" %d",i);puts("");
printf("CTL");for(int i=0;i<llama_vocab_n_tokens(vo);i++)if(llama_vocab_get_attr(vo,i)&(LLAMA_TOKEN_ATTR_CONTROL|LLAMA_TOKEN_ATTR_UNKNOWN))printf(" %d",i);puts("");
printf("IDS %d %d %d %d\n",llama_vocab_bos(vo),llama_vocab_eos(vo),llama_vocab_get_add_bos(vo),llama_vocab_n_tokens(vo));
char buf[4096];unsigned long h=5381;for(int i=0;i<llama_vocab_n_tokens(vo);i++){int r=llama_token_to_piece(vo,i,buf,4096,0,true);for(int j=0;j<r;j++)h=h*33+(unsigned char)buf[j];h=h*33+255;}printf("PIECES %lu\n",h);
return 0;}
